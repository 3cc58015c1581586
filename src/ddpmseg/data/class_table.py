"""Class tables: names and display colours of the labels in a mask."""

import colorsys
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from ddpmseg.data.file_names import as_read
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.yaml_file import read_yaml
from ddpmseg.limits import no_path

GREY = (128, 128, 128)
"""Display colour of pixels without a class."""
LONGEST_NAME = 100
"""Characters."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_REQUIRED, _OPTIONAL = ("name", "ignore_label", "classes"), ("num_labelled", "num_test")
_CLASS_KEYS = ("name", "rgb", "area")


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes of a set of masks, in label order.

    The ignore label may be one of the classes: in the paper's Bedroom-28, with 29 outputs, output 0
    is never trained and label 0 is never averaged.
    """

    name: str
    names: tuple[str, ...]
    palette: UInt8[np.ndarray, "k 3"]
    """RGB of every class."""
    ignore_label: int
    """Label of pixels without a class, 0..255."""
    num_labelled: int | None
    """Labelled training images that the paper uses; None: all."""
    num_test: int | None

    @property
    def num_classes(self) -> int:
        """Outputs of a head for these masks (29 for Bedroom-28)."""
        return len(self.names)

    @property
    def averaged(self) -> tuple[int, ...]:
        """Labels that enter the paper's mean IoU: all but the ignore label."""
        return tuple(label for label in range(self.num_classes) if label != self.ignore_label)

    def record(self) -> dict[str, Any]:
        """Plain JSON values from which `read_class_table` makes the same table."""
        counts = {"num_labelled": self.num_labelled, "num_test": self.num_test}
        return {
            "name": self.name,
            "ignore_label": self.ignore_label,
            **{key: count for key, count in counts.items() if count is not None},
            "classes": [
                {"name": name, "rgb": "#" + bytes(rgb.tolist()).hex().upper()}
                for name, rgb in zip(self.names, self.palette, strict=True)
            ],
        }

    def check_mask(self, mask: Integer[np.ndarray, "h w"], shown_as: str) -> None:
        """Raise DataError when a label is neither a class nor the ignore label.

        Call it on the stored labels, before a cast could wrap 256 to 0.
        """
        unknown = np.unique(mask[(mask < 0) | (mask >= self.num_classes)])
        unknown = unknown[unknown != self.ignore_label]
        if not unknown.size:
            return
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if unknown.size > 8 else "")
        is_class = self.ignore_label < self.num_classes
        ignored = "" if is_class else f" and {self.ignore_label} (ignored)"
        raise DataError(
            f"mask '{shown_as}' has the label{'s' * (unknown.size > 1)} {shown}; class table "
            f"'{self.name}' allows 0..{self.num_classes - 1}{ignored}. Correct the mask, or set "
            "`dataset.classes` to a table of all its classes."
        )

    def colourise(self, mask: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """Paint every class in its colour and pixels without a class in mid grey.

        Raises IndexError for labels that `check_mask` rejects.
        """
        if self.ignore_label < self.num_classes:
            return self.palette[mask]
        colours = np.concatenate([self.palette, np.array([GREY], np.uint8)])
        return colours[np.where(mask == self.ignore_label, self.num_classes, mask)]

    def indexed(self, mask: UInt8[np.ndarray, "h w"]) -> Image.Image:
        """The labels as an indexed picture, displayed in the colours of `colourise`."""
        colours = np.full((256, 3), GREY, np.uint8)
        colours[: self.num_classes] = self.palette
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette(colours.flatten().tolist())
        return picture


def shipped_class_tables() -> tuple[str, ...]:
    """Names of the tables that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _shipped_folder().glob("*.yaml")))


def load_class_table(name_or_path: str) -> ClassTable:
    """Read a shipped table by name, or a YAML file in the format of those in `data/classes/`.

    'package:classes.yaml' is the path of a file in an installed package.

    The keys are name, ignore_label, classes and, optionally, num_labelled and num_test. A class has
    a name and, optionally, rgb ("#RRGGBB"; else its label generates a colour) and area (percent of
    all pixels, for the reader only).

    Raises ConfigError for an unknown name, or anything wrong in the file.
    """
    if name_or_path in shipped_class_tables():
        path = _shipped_folder() / f"{name_or_path}.yaml"
    else:
        path = _package_file(name_or_path) or Path(name_or_path).expanduser()
    if no_path(name_or_path) or not path.is_file():
        raise ConfigError(
            f"`dataset.classes={name_or_path}`: no class table of this name ships with ddpmseg "
            f"(there are: {', '.join(shipped_class_tables())}), and there is no such file. Give "
            "one of these names or the path of a YAML file like theirs."
        )
    return read_class_table(read_yaml(path, "class table"), str(path))


def read_class_table(content: Any, shown_as: str) -> ClassTable:
    """Build the table from plain JSON or YAML values. Raises ConfigError if they describe none.

    Messages call the source `shown_as`.
    """
    try:
        return _parse(content)
    except ValueError as error:
        raise ConfigError(
            f"class table '{shown_as}': {error}. The tables in '{_shipped_folder()}' show the "
            "format."
        ) from error


def _package_file(text: str) -> Path | None:
    """The file 'package:file', which need not exist, without importing the package."""
    name, colon, file = text.partition(":")
    spec = find_spec(name) if colon and name.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) / file if folders else None


def _shipped_folder() -> Path:
    return Path(str(files("ddpmseg") / "data" / "classes"))


def _parse(content: Any) -> ClassTable:
    _check_keys(content, "the file", _REQUIRED, _OPTIONAL)
    classes = content["classes"]
    if not isinstance(classes, list) or not 1 <= len(classes) <= 256:
        raise ValueError("`classes` must be a list of 1 to 256 classes in label order")
    for label, entry in enumerate(classes):
        _check_keys(entry, f"class {label}", _CLASS_KEYS[:1], _CLASS_KEYS[1:])
    names = tuple(
        _text(entry["name"], f"`name` of class {label}") for label, entry in enumerate(classes)
    )
    alike = [as_read(name) for name in names]
    repeated = sorted({name for name in alike if alike.count(name) > 1})
    if repeated:
        raise ValueError(f"class '{repeated[0]}' is listed more than once")
    palette = [
        _rgb(entry["rgb"], label) if "rgb" in entry else generated_colour(label)
        for label, entry in enumerate(classes)
    ]
    return ClassTable(
        name=_text(content["name"], "`name`"),
        names=names,
        palette=np.array(palette, np.uint8),
        ignore_label=_whole_number(content["ignore_label"], "ignore_label", 0, 255),
        num_labelled=_optional_count(content, "num_labelled"),
        num_test=_optional_count(content, "num_test"),
    )


def _check_keys(
    entry: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    if not isinstance(entry, dict):
        raise ValueError(
            f"{where} must be a mapping with {', '.join(required)}, found {shortened(entry)}"
        )
    if missing := [key for key in required if key not in entry]:
        raise ValueError(f"{where} lacks `{missing[0]}`")
    if unknown := [key for key in entry if key not in required + optional]:
        allowed = ", ".join(required + optional)
        raise ValueError(
            f"{where} has the unknown key `{str(unknown[0])[:60]}` (allowed: {allowed})"
        )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{what} must be text, found {shortened(value)} (put numbers and yes/no in quotes)"
        )
    if len(value) > LONGEST_NAME or _UNPRINTABLE.search(value):
        raise ValueError(
            f"{what} must have at most {LONGEST_NAME} characters and no control characters, found "
            f"{shortened(value)}"
        )
    return value


def _rgb(value: Any, label: int) -> tuple[int, ...]:
    if not isinstance(value, str) or not re.fullmatch("#[0-9A-Fa-f]{6}", value):
        raise ValueError(
            f'`rgb` of class {label} must look like "#3CB45A", found {shortened(value)}'
        )
    return tuple(bytes.fromhex(value[1:]))


def _optional_count(content: dict[str, Any], key: str) -> int | None:
    value = content.get(key)
    return None if value is None else _whole_number(value, key, 1, 10**9)


def _whole_number(value: Any, key: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"`{key}` must be a whole number in {low}..{high}, found {shortened(value)}"
        )
    return value


def generated_colour(label: int) -> tuple[int, int, int]:
    """A colour for `label`, RGB 0..255, unlike those of neighbouring labels."""
    # Steps of the golden ratio never cluster on the circle of hues, however many there are.
    hue = (label * 0.6180339887 + 0.6) % 1
    saturation, value = (0.75, 0.5, 0.9)[label % 3], (0.9, 0.65)[label % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
