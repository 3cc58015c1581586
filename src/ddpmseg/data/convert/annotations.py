"""Photographs with the labelled shapes that annotation tools save, and masks drawn from them."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from ddpmseg.data.file_names import AlikeFiles, as_read
from ddpmseg.errors import DataError
from ddpmseg.io.text_file import read_text

IGNORED = "__ignore__"
"""labelme's label of a shape whose pixels belong to no class."""
FARTHEST = 100_000
"""Largest coordinate in pixels: larger ones are mistakes that could fill the memory."""
OnTop = Literal["smaller", "later"]


@runtime_checkable
class Shape(Protocol):
    """An area of one class."""

    @property
    def label(self) -> str: ...

    def covers(self, width: int, height: int) -> Bool[np.ndarray, "h w"]:
        """Mask of the pixels inside, on an image of this size.

        Raises DataError when the shape cannot be drawn.
        """
        ...


@dataclass(frozen=True)
class AnnotatedImage:
    """One photograph and the shapes drawn on it."""

    name: str
    """Stem of the image file; the mask gets the same one."""
    photo: Path | bytes
    """The image file, or its content."""
    suffix: str
    size: tuple[int, int] | None
    """Width and height when the image was annotated; None: unknown."""
    shapes: tuple[Shape, ...]
    shown_as: str
    """Name of the image in messages."""


@dataclass(frozen=True)
class AnnotatedSet:
    """All images of a source, sorted by name, and its classes, in the order of the source."""

    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]

    def __post_init__(self) -> None:
        _check_names(self.images)


def paint(
    shapes: Sequence[Shape],
    labels: Mapping[str, int],
    width: int,
    height: int,
    unlabelled: int,
    on_top: OnTop,
) -> UInt8[np.ndarray, "h w"]:
    """Label every pixel with its topmost shape's class, or with `unlabelled`.

    Args:
        shapes: in the order of the file.
        labels: class name -> label 0..255.
        width: width of the image in pixels; likewise height.
        unlabelled: label of pixels that no shape covers.
        on_top: which of two overlapping shapes wins. 'smaller': the shape of fewer pixels (an eye
            lies on its head in whichever order they were drawn), the later one of equals; 'later':
            the shape that comes later in the file.
    """
    order = list(range(len(shapes)))
    if on_top == "smaller":
        areas = [int(shape.covers(width, height).sum()) for shape in shapes]
        order.sort(key=lambda index: -areas[index])
    mask = np.full((height, width), unlabelled, np.uint8)
    for index in order:
        # Drawn a second time: keeping all shapes of a large photograph could fill the memory.
        mask[shapes[index].covers(width, height)] = labels[shapes[index].label]
    return mask


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. Raises DataError for anything else."""
    try:
        content = json.loads(read_text(path, "annotation file", DataError))
    except FileNotFoundError as error:
        raise DataError(f"annotation file '{path}' does not exist.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"annotation file '{path}' is not JSON: {error}. Export it again from the tool that "
            "wrote it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"annotation file '{path}' holds a {type(content).__name__}; files of COCO and labelme "
            "hold an object."
        )
    return content


class PhotoFinder:
    """Finds the photographs that an annotation file names, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files = folder, AlikeFiles()

    def find(self, name: str) -> tuple[Path, PurePosixPath]:
        """The photograph, and its name with slashes, as Windows does not write it.

        A photograph that is not there under its whole name may lie in the folder under the last
        part of it. The path of one that is missing does not exist.
        """
        written = PurePosixPath(name.replace("\\", "/"))
        for candidate in (name, written, written.name):
            found = self._files.find(self.folder / candidate)
            if found is not None and found.is_file():
                return found, written
        return self.folder / written, written


def class_name(value: Any, where: str) -> str:
    """Check and strip the name of a class; names that read alike become equal.

    Raises DataError for anything but text.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has the class name {value!r}; it must be text.")
    return as_read(value.strip())


def check_points(points: Sequence[Any], minimum: int, where: str) -> list[tuple[float, float]]:
    """Return the points as pairs (x, y) in pixels.

    Raises DataError for fewer than `minimum` points, or a point that is not two numbers.
    """
    for point in points:
        if not isinstance(point, list | tuple) or len(point) != 2 or not all(map(_near, point)):
            raise DataError(
                f"{where} has the point {point!r}; a point is two numbers, x and y in pixels, "
                f"within {FARTHEST}."
            )
    if len(points) < minimum:
        raise DataError(
            f"{where} has {len(points)} point{'s' * (len(points) != 1)}, and needs at least "
            f"{minimum}. Draw or remove it in the annotation tool."
        )
    return [(float(x), float(y)) for x, y in points]


def image_size(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Width and height as a file states them; None when it does not. Raises DataError."""
    if width is None and height is None:
        return None
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise DataError(f"{where} states the size {width!r} x {height!r}; it must be in pixels.")
    return width, height


def _near(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= FARTHEST


def _check_names(images: Sequence[AnnotatedImage]) -> None:
    counts = Counter(as_read(image.name) for image in images)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        first, second, *_ = (i.shown_as for i in images if as_read(i.name) == repeated[0])
        raise DataError(
            f"images '{first}' and '{second}' are both named '{repeated[0]}' without folder and "
            "suffix, and would share one mask. Rename or remove one of them."
        )
