"""A folder of drawn images and their labels, filled over any number of commands."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddpmseg.data.class_table import ClassTable
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.array_file import read_npy
from ddpmseg.io.damage import explain_damage
from ddpmseg.io.files import append_text, atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.io.record_file import read_record, write_record
from ddpmseg.io.tensor_file import npy
from ddpmseg.records.results import write_table

SETTINGS = "samples.json"
UNCERTAINTY = "uncertainty.csv"
MASKS, LEFT_OUT = "masks", "left_out"
COLUMNS = ("image", "uncertainty", "used")


class SampleFolder:
    """What `ddpmseg sample` leaves, every file whole.

    NAME.png and, once it is labelled, NAME.npy: pairs as `dataset=folder` reads them. Images that
    `--keep` leaves out lie in `left_out/`, where no dataset finds them. Beside the pairs: the
    labels in colours as masks/NAME.png, `uncertainty.csv`, and the settings in `samples.json`.
    A name is the image's index in six digits, so that file order is the order of the indices.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, sampling: Mapping[str, Any], labels: Mapping[str, Any] | None) -> None:
        """Create the folder, or go on with one of the same settings.

        Labels may be added to images that have none. Raises ConfigError for a folder that holds
        something else, or images drawn or labelled with other settings.
        """
        path = self.folder / SETTINGS
        earlier: dict[str, Any] = {"sampling": dict(sampling), "labels": None}
        if path.is_file():
            earlier = self._read_settings(path)
            if not (self.folder / UNCERTAINTY).is_file():
                earlier["labels"] = None  # none is finished
        elif self.folder.exists() and (
            not self.folder.is_dir()
            or any(not entry.name.startswith(".") for entry in self.folder.iterdir())
        ):
            raise ConfigError(
                f"'{self.folder}' exists and holds no images of `sample`; nothing is ever written "
                "over it. Remove it, or name another `--output`."
            )
        wanted = {"sampling": dict(sampling), "labels": labels or earlier["labels"]}
        for part, verb in (("sampling", "drawn"), ("labels", "labelled")):
            # What an earlier version did not record is taken to be the same.
            if earlier[part] and {**wanted[part], **earlier[part]} != wanted[part]:
                raise ConfigError(
                    f"'{self.folder}' holds images {verb} with other settings "
                    f"({_differences(earlier[part], wanted[part])}). Repeat those to go on with "
                    f"it, remove the folder, or name another `--output`."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder, below=True)
        write_record(path, wanted)

    def num_images(self) -> int:
        """One more than the largest index that was drawn."""
        names = [path.stem for path in self._images()]
        return 1 + max((int(name) for name in names), default=-1)

    def missing(self, num: int) -> list[int]:
        """Which of the first `num` images are not there."""
        there = {path.stem for path in self._images()}
        return [index for index in range(num) if name_of(index) not in there]

    def unlabelled(self, num: int) -> list[int]:
        """Which of the first `num` images lack their mask or its uncertainty."""
        known = self.uncertainties()
        return [
            index
            for index in range(num)
            if name_of(index) not in known or not self._place(name_of(index), ".npy").is_file()
        ]

    def image_path(self, index: int) -> Path:
        return self._place(name_of(index), ".png")

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The labels of an image that has some; DataError for a damaged file."""
        path = self._place(name_of(index), ".npy")
        with explain_damage(path, "Remove it: the image is labelled again.", DataError):
            found = read_npy(path)
            if found.dtype != np.uint8 or found.ndim != 2:
                raise ValueError(f"it holds no labels but {found.dtype} of {found.ndim} axes")
        return found

    def write_image(self, index: int, image: UInt8[Tensor, "3 s s"]) -> None:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        with atomic_write(self.folder / f"{name_of(index)}.png") as unfinished:
            Image.fromarray(pixels).save(unfinished, format="png")

    def write_mask(self, index: int, mask: NDArray[np.uint8], classes: ClassTable) -> None:
        """Beside its image as .npy, and in colours."""
        with explain_unwritable(self.folder):
            (self.folder / MASKS).mkdir(exist_ok=True)
        with atomic_write(self.folder / MASKS / f"{name_of(index)}.png") as unfinished:
            classes.indexed(mask).save(unfinished, format="png")
        place = self.image_path(index).with_suffix(".npy")
        with atomic_write(place) as unfinished:
            unfinished.write_bytes(npy(mask))

    def uncertainties(self) -> dict[str, float]:
        """Name -> uncertainty of the labelled images; DataError for a damaged file."""
        path = self.folder / UNCERTAINTY
        if not path.is_file():
            return {}
        with explain_damage(path, "Remove it: the images are labelled again.", DataError):
            with path.open(newline="", encoding="utf-8") as file:
                found = {
                    row["image"]: float(row["uncertainty"])
                    for row in csv.DictReader(file)
                    if row.get("used", "1")  # else the end of a line that was cut off
                }
            if not all(map(isfinite, found.values())):
                raise ValueError("not all uncertainties are numbers")
        return found

    def write_uncertainties(self, values: Mapping[str, float]) -> None:
        """All that are known, in the order of the names, and whether the image is in use."""
        rows: list[dict[str, object]] = [
            dict(zip(COLUMNS, self._row(name, values), strict=True)) for name in sorted(values)
        ]
        write_table(self.folder / UNCERTAINTY, COLUMNS, rows)

    def add_uncertainties(self, values: Mapping[str, float]) -> None:
        """Append those of images that are being labelled, after `write_uncertainties` in a command.

        The file is not written anew for every pass of many.
        """
        lines = [",".join(self._row(name, values)) + "\r\n" for name in values]
        append_text(self.folder / UNCERTAINTY, "".join(lines))

    def _row(self, name: str, values: Mapping[str, float]) -> tuple[str, str, str]:
        used = (self.folder / f"{name}.png").is_file()
        return name, f"{values[name]:.9g}", str(int(used))

    def use(self, indices: Collection[int]) -> None:
        """Put these images beside their masks into the folder, and the others into `left_out/`.

        An image moves after its mask into the folder, and before it out: a stop between the two
        leaves a mask without image, which nothing reads.
        """
        used = {name_of(index) for index in indices}
        aside = self.folder / LEFT_OUT
        for path in self._images():
            if path.stem in used and path.parent == aside:
                _move(path.with_suffix(".npy"), self.folder)
                _move(path, self.folder)
            elif path.stem not in used and path.parent == self.folder:
                aside.mkdir(exist_ok=True)
                _move(path, aside)
                _move(path.with_suffix(".npy"), aside)
        # What a stop left behind in an earlier call.
        for name in used:
            _move(aside / f"{name}.npy", self.folder)
        self.write_uncertainties(self.uncertainties())

    def _images(self) -> list[Path]:
        folders = (self.folder, self.folder / LEFT_OUT)
        found = [path for folder in folders for path in sorted(folder.glob("[0-9]*.png"))]
        return [path for path in found if path.stem.isdecimal()]

    def _place(self, name: str, suffix: str) -> Path:
        """Of a file of an image, wherever the image lies."""
        aside = self.folder / LEFT_OUT / f"{name}{suffix}"
        return aside if aside.is_file() else self.folder / f"{name}{suffix}"

    def _read_settings(self, path: Path) -> dict[str, Any]:
        remedy = f"Remove '{self.folder}', or name another `--output`."
        content = read_record(path, remedy)
        with explain_damage(path, remedy):
            labels = content["labels"]
            labels = None if labels is None else dict(labels)
            return {"sampling": dict(content["sampling"]), "labels": labels}


def name_of(index: int) -> str:
    return f"{index:06d}"


def _move(path: Path, folder: Path) -> None:
    if path.is_file():
        path.replace(folder / path.name)


def _differences(earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Such as 'seed 0, not 1'."""
    keys: Sequence[str] = [*earlier, *(key for key in wanted if key not in earlier)]
    return ", ".join(
        f"{key} {_short(earlier.get(key))}, not {_short(wanted.get(key))}"
        for key in keys
        if earlier.get(key) != wanted.get(key)
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
