"""A sweep on disk: what was asked for, and one whole record for every finished cell."""

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.files import OUTPUT_DIR, explain_unwritable, written_whole
from ddpmseg.io.locks import FolderLocks
from ddpmseg.records.cell_grid import Cell
from ddpmseg.records.results import CONFIG

VERSION = 1
"""Of the format of records; another one is refused, never guessed at."""
IDENTITY = "sweep.json"
MADE_OF_CELLS = ("*.npz", "cells.csv", "controls.csv", "findings.txt", "report.html", "figures/*")
RECORD = re.compile(r"b(\d+)_t(\d+)_s(\d+)\.json")

Key = tuple[int, int, int]
"""(block, timestep, seed)"""


class CellStore:
    """The records of one sweep folder, below `cells/` and, for controls, `controls/NAME/`.

    A record appears whole or not at all, so that whatever is there is done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = FolderLocks(folder)

    def identity(self) -> dict[str, Any]:
        """What `claim` wrote. Raises ConfigError when the folder holds no sweep, or is damaged."""
        path = self.folder / IDENTITY
        if not path.is_file():
            raise ConfigError(
                f"'{self.folder}' is not the folder of a sweep: there is no '{path}'."
            )
        try:
            found = json.loads(path.read_text())
            version = found["version"]
            if version == VERSION and not isinstance(found["request"], dict):
                raise ValueError("its request is none")
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"'{path}' is damaged ({error}), so nobody can say of what the cells there are. "
                "Restore it, or choose another `paths.output_dir`."
            ) from error
        if version != VERSION:
            raise ConfigError(
                f"'{self.folder}' holds a sweep in format {version}; this program reads format "
                f"{VERSION}. Choose another `paths.output_dir`, or use the program that made it."
            )
        return found

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Raise ConfigError unless the folder is new or its cells hold what `wanted` describes.

        Both are compared by `request`, and by whatever else of `wanted` the folder knows.
        """
        if not (self.folder / IDENTITY).exists():
            if any(self.folder.glob("cells/*.json")):
                raise ConfigError(
                    f"'{self.folder}' holds cells, but '{IDENTITY}' that says of what is missing. "
                    "Choose another `paths.output_dir`."
                )
            return
        found = self.identity()
        told = [
            (f"`{key}`", value, found["request"].get(key))
            for key, value in wanted["request"].items()
            if found["request"].get(key) != value
        ]
        names = {"checkpoint_sha256": "the weight file", "data_sha256": "the images and masks"}
        told += [
            (what, wanted[key][:12], str(found.get(key))[:12])
            for key, what in names.items()
            if key in wanted and found.get(key) != wanted[key]
        ]
        if told:
            what, new, old = told[0]
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            raise ConfigError(
                f"'{self.folder}' holds the cells of another request: {what} was {old}, is {new}"
                f"{more}. Choose another `paths.output_dir`."
            )

    def claim(self, identity: Mapping[str, Any], settings: str) -> None:
        """Create the folder, or check that it holds the cells of the same request.

        `settings` is the configuration as YAML, for those who read the folder later. Raises
        ConfigError as `check` does, DataError when the folder cannot be written to.
        """
        with explain_unwritable(self.folder, OUTPUT_DIR):
            (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        with self._locks.hold({"claim": ""}):
            self.check(identity)
            for name, text in (
                (CONFIG, settings),
                (IDENTITY, json.dumps({"version": VERSION, **identity}, indent=1)),
            ):
                with written_whole(self.folder / name) as unfinished:
                    unfinished.write_text(text)

    def clear(self) -> None:
        """Delete all records and what was made of them. Raises ConfigError when they are in use."""
        busy = sorted(int(path.name[1:]) for path in self.folder.glob(".locks/t*"))
        if not self.folder.exists():
            return
        with self.held(busy):
            for pattern in ("cells/*.json", "controls/*/*.json", *MADE_OF_CELLS, IDENTITY):
                for path in self.folder.glob(pattern):
                    path.unlink()

    def drop(self, keys: Iterable[Key], control: str = "") -> None:
        """Delete the records of these cells; the others stay."""
        for key in keys:
            self._path(key, control).unlink(missing_ok=True)

    def held(self, timesteps: Iterable[int], wait: bool = False) -> AbstractContextManager[None]:
        """Keep other processes from these timesteps until the block ends, however it ends.

        When one does so now, raises ConfigError or, with `wait`, waits for it.
        """
        locks = {
            f"t{timestep:04d}": f"t = {timestep} of '{self.folder}' is being computed"
            for timestep in timesteps
        }
        other = "Wait for it and repeat the command, or choose other `sweep.timesteps`."
        return self._locks.hold(locks, refuse="" if wait else other)

    def reporting(self) -> AbstractContextManager[None]:
        """Wait until no other process writes the report, then keep others waiting."""
        return self._locks.hold({"report": f"the report of '{self.folder}' is being written"})

    def done(self, control: str = "") -> set[Key]:
        """The cells that have a record."""
        return {_key(path) for path in self._records(control)}

    def read(self, control: str = "") -> list[Cell]:
        """All finished cells, sorted. Raises DataError for a damaged record."""
        return [self._parse(path)[0] for path in sorted(self._records(control))]

    def masks(self, key: Key, control: str = "") -> UInt8[np.ndarray, "n s s"]:
        """What the probe of a cell made of the example images."""
        return self._parse(self._path(key, control))[1]

    def drop_damaged(self, control: str = "") -> list[str]:
        """Remove records that cannot be read, so that their cells are computed again.

        Returns a sentence about each.
        """
        found = self._damaged(control)
        for path in found:
            path.unlink()
        return list(found.values())

    def is_damaged(self, control: str = "") -> bool:
        """Whether there is a record that `drop_damaged` would remove."""
        return bool(self._damaged(control))

    def _damaged(self, control: str) -> dict[Path, str]:
        """A sentence about every record that cannot be read."""
        told = {}
        for path in sorted(self._records(control)):
            try:
                self._parse(path)
            except DataError as error:
                told[path] = str(error)
        return told

    def write(self, cell: Cell, masks: UInt8[np.ndarray, "n s s"], control: str = "") -> None:
        """Record a finished cell. Raises DataError when the disk is full; other cells stay."""
        record = {
            "version": VERSION,
            "block": cell.block,
            "timestep": cell.timestep,
            "seed": cell.seed,
            "seconds": round(cell.seconds, 3),
            "counts": cell.counts.tolist(),
            "masks": _pack(masks),
        }
        path = self._path(cell.key, control)
        with explain_unwritable(self.folder, OUTPUT_DIR):
            path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            unfinished.write_text(json.dumps(record))

    def _records(self, control: str) -> list[Path]:
        found = self._folder(control).glob("b*_t*_s*.json")
        return [path for path in found if RECORD.fullmatch(path.name)]

    def _folder(self, control: str) -> Path:
        return self.folder / "controls" / control if control else self.folder / "cells"

    def _path(self, key: Key, control: str) -> Path:
        block, timestep, seed = key
        return self._folder(control) / f"b{block:02d}_t{timestep:04d}_s{seed}.json"

    def _parse(self, path: Path) -> tuple[Cell, np.ndarray]:
        try:
            record = json.loads(path.read_text())
            if record["version"] != VERSION:
                raise ValueError(f"format {record['version']}, not {VERSION}")
            key = (record["block"], record["timestep"], record["seed"])
            if key != _key(path):
                raise ValueError(f"it is of cell {key}")
            counts = torch.tensor(record["counts"], dtype=torch.int64)
            if counts.ndim != 2 or counts.shape[0] != counts.shape[1] + 1:
                raise ValueError(f"its counts have the shape {tuple(counts.shape)}")
            return Cell(*key, counts, float(record["seconds"])), _unpack(record["masks"])
        except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"record '{path}' is damaged ({error}). Repeat the command of the sweep: it "
                "computes this cell again and keeps the others."
            ) from error


def _key(path: Path) -> Key:
    matched = RECORD.fullmatch(path.name)
    assert matched
    block, timestep, seed = map(int, matched.groups())
    return block, timestep, seed


def _pack(masks: UInt8[np.ndarray, "n s s"]) -> str:
    """Masks below one another as a greyscale PNG in base64, with their number."""
    if not len(masks):
        return ""
    file = io.BytesIO()
    Image.fromarray(masks.reshape(-1, masks.shape[-1])).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def _unpack(text: str) -> UInt8[np.ndarray, "n s s"]:
    if not text:
        return np.zeros((0, 0, 0), np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        column = np.asarray(image, dtype=np.uint8)
    size = column.shape[1]
    return column.reshape(-1, size, size)
