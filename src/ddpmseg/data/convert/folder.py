"""From annotated photographs to the folder that `dataset=folder` reads."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image, ImageOps

from ddpmseg.data.class_table import ClassTable, generated_colour
from ddpmseg.data.convert.annotations import IGNORED, AnnotatedImage, AnnotatedSet, OnTop, paint
from ddpmseg.data.images import IMAGE_SUFFIXES, read_image
from ddpmseg.errors import DataError

TRAIN, TEST = "real/train", "real/test"
"""Folders of the photographs; the masks of each lie in a folder with this suffix:"""
MASKS = "_masks"
CLASSES = "classes.yaml"
IGNORE_LABEL = 255
BACKGROUND = "background"
BACKGROUND_RGB = (235, 235, 240)
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""


@dataclass(frozen=True)
class Layout:
    """The classes of the masks to be written, and the labels of what is drawn and what is not."""

    table: ClassTable
    labels: Mapping[str, int]
    """Of every class, and of `IGNORED`."""
    unlabelled: int
    """Label of pixels that no shape covers: 0 or `IGNORE_LABEL`."""


@dataclass(frozen=True)
class Split:
    """What was written of one split."""

    num_images: int
    without_shapes: tuple[str, ...]
    num_not_square: int
    pixels: Int64[np.ndarray, " 256"]
    """Pixels of every label."""
    images: Int64[np.ndarray, " 256"]
    """Images that hold a label."""


def choose_layout(
    name: str, source: AnnotatedSet, listed: Sequence[str] | None, background: bool
) -> Layout:
    """Classes as the source lists them, or as `listed`, in a table called `name`.

    With `background`, pixels that no shape covers are label 0, 'background', to which a class of
    that name in the source also belongs; without, they are ignored. Raises DataError for a shape
    of a class that is not listed, and for more classes than labels.
    """
    classes = tuple(source.classes if listed is None else listed)
    unlabelled = IGNORE_LABEL
    if background:
        own = next((name for name in classes if name.casefold() == BACKGROUND), BACKGROUND)
        classes, unlabelled = (own, *(name for name in classes if name != own)), 0
    if len(classes) > IGNORE_LABEL:
        raise DataError(
            f"the masks would have {len(classes)} classes; there can be {IGNORE_LABEL}, for label "
            f"{IGNORE_LABEL} marks ignored pixels. Join or leave out classes in the annotations."
        )
    labels = {name: label for label, name in enumerate(classes)} | {IGNORED: IGNORE_LABEL}
    for image in source.images:
        for number, shape in enumerate(image.shapes, start=1):
            if shape.label not in labels:
                raise DataError(
                    f"shape {number} of image '{image.shown_as}' has the class '{shape.label}', "
                    f"which --classes does not list; it lists {', '.join(classes)}."
                )
    palette = np.array([_colour(label, name) for label, name in enumerate(classes)], np.uint8)
    table = ClassTable(name, classes, palette, IGNORE_LABEL, num_labelled=None, num_test=None)
    return Layout(table, labels, unlabelled)


def write_split(
    folder: Path, images: Iterable[AnnotatedImage], layout: Layout, on_top: OnTop
) -> Split:
    """Write every photograph to `folder` and its mask to the folder beside it, an indexed PNG.

    A photograph is copied as it is; one that a camera stored turned, and was annotated upright, or
    whose suffix is none of `IMAGE_SUFFIXES`, becomes an upright .png. Raises DataError naming the
    photograph that is missing, damaged, or of another size than when it was annotated.
    """
    masks = folder.with_name(folder.name + MASKS)
    folder.mkdir(parents=True)
    masks.mkdir()
    pixels, holding = np.zeros(256, np.int64), np.zeros(256, np.int64)
    count, not_square, without = 0, 0, []
    for image in images:
        content, suffix, (width, height) = _photograph(image)
        mask = paint(image.shapes, layout.labels, width, height, layout.unlabelled, on_top)
        (folder / f"{image.name}{suffix}").write_bytes(content)
        layout.table.indexed(mask).save(masks / f"{image.name}.png")
        found = np.bincount(mask.ravel(), minlength=256)
        pixels += found
        holding += found > 0
        count += 1
        not_square += width != height
        if not image.shapes:
            without.append(image.name)
    return Split(count, tuple(without), not_square, pixels, holding)


def class_yaml(table: ClassTable, train: Split, test: Split) -> str:
    """The table as `load_class_table` reads it, with the area of every class in both splits."""
    lines = [
        "# Label 0 is the first class. Names and colours may be changed, the order may not.",
        "# area: share of all pixels in percent, [training, test].",
        f"name: {_quoted(table.name)}",
        f"ignore_label: {table.ignore_label}",
        "classes:",
    ]
    for label, name in enumerate(table.names):
        rgb = "#" + table.palette[label].tobytes().hex().upper()
        area = ", ".join(f"{share:.3f}" for share in _shares(label, train, test))
        lines.append(f'  - {{name: {_quoted(name)}, rgb: "{rgb}", area: [{area}]}}')
    return "\n".join(lines) + "\n"


def summary(table: ClassTable, train: Split, test: Split) -> list[str]:
    """Images of both splits, and the area and images of every class, as lines of text."""
    width = max(len(name) for name in (*table.names, "ignored"))
    lines = [
        f"images: {train.num_images} for training, {test.num_images} for testing",
        f"label  {'class':<{width}}  train %   test %  train images  test images",
    ]
    for label, name in (*enumerate(table.names), (table.ignore_label, "ignored")):
        in_train, in_test = _shares(label, train, test)
        lines.append(
            f"{label:>5}  {name:<{width}}  {in_train:>7.3f}  {in_test:>7.3f}  "
            f"{train.images[label]:>12}  {test.images[label]:>11}"
        )
    if without := (*train.without_shapes, *test.without_shapes):
        shown = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        lines.append(f"without any shape: {len(without)} ({shown})")
    return lines


def _photograph(image: AnnotatedImage) -> tuple[bytes, str, tuple[int, int]]:
    """The file to write: its content, its suffix, its width and height."""
    if isinstance(image.photo, Path) and not image.photo.is_file():
        raise DataError(
            f"image '{image.shown_as}' is missing. Put it there, or name the folder of the images "
            "with --images."
        )
    content = image.photo.read_bytes() if isinstance(image.photo, Path) else image.photo
    stored = read_image(io.BytesIO(content), image.shown_as)
    upright = ImageOps.exif_transpose(stored)
    turned = stored.getexif().get(ORIENTATION, 1) != 1
    if turned and image.size in (None, upright.size):
        return _png(upright), ".png", upright.size
    if image.size not in (None, stored.size):
        raise DataError(
            f"image '{image.shown_as}' is {stored.width}x{stored.height}, but was annotated at "
            f"{image.size[0]}x{image.size[1]}. Restore the image that was annotated."
        )
    if image.suffix.lower() not in IMAGE_SUFFIXES:
        return _png(stored), ".png", stored.size
    return content, image.suffix, stored.size


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    # Pixels only: a note of the camera's orientation would turn it once more.
    Image.fromarray(np.asarray(image)).save(file, format="png")
    return file.getvalue()


def _colour(label: int, name: str) -> tuple[int, int, int]:
    return BACKGROUND_RGB if name.casefold() == BACKGROUND else generated_colour(label)


def _shares(label: int, *splits: Split) -> list[float]:
    """Percent of all pixels that have the label."""
    return [100 * float(split.pixels[label]) / float(split.pixels.sum()) for split in splits]


def _quoted(text: str) -> str:
    """As YAML reads it, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)
