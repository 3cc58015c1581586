"""Writes annotated photographs, or any labelled set, as the folder that `dataset=folder` reads."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from ddpmseg.data.class_table import ClassTable, generated_colour
from ddpmseg.data.convert.annotations import IGNORED, AnnotatedImage, AnnotatedSet, OnTop, paint
from ddpmseg.data.decode import TURNED
from ddpmseg.data.images import IMAGE_SUFFIXES, read_image
from ddpmseg.data.labelled import LabelledSet, LabelledSplit
from ddpmseg.errors import DataError
from ddpmseg.io.tensor_file import npy

TRAIN, TEST = "real/train", "real/test"
"""Folders of the photographs."""
MASKS = "_masks"
"""Suffix of the folder beside them that holds their masks."""
CLASSES = "classes.yaml"
IGNORE_LABEL = 255
BACKGROUND = "background"
BACKGROUND_RGB = (235, 235, 240)


@dataclass(frozen=True)
class MaskLabels:
    """The classes and labels of the masks to be written."""

    table: ClassTable
    labels: Mapping[str, int]
    """Name of a class, or `IGNORED` -> label."""
    unlabelled: int
    """Label of pixels that no shape covers: 0 or `IGNORE_LABEL`."""


@dataclass(frozen=True)
class WrittenSplit:
    """What was written of one split."""

    num_images: int
    without_shapes: tuple[str, ...]
    num_not_square: int
    pixels: Int64[np.ndarray, " 256"]
    """Pixels of every label."""
    images: Int64[np.ndarray, " 256"]
    """Images that hold a label."""


def choose_labels(
    name: str, source: AnnotatedSet, listed: Sequence[str] | None, background: bool
) -> MaskLabels:
    """Number the classes of the source, or those `listed`, and put them in a table called `name`.

    With `background`, pixels that no shape covers get label 0, 'background', together with a class
    of that name in the source; without, they are ignored. Raises DataError for a shape of a class
    that is not listed, and for more classes than labels.
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
    return MaskLabels(table, labels, unlabelled)


def write_split(
    folder: Path, images: Iterable[AnnotatedImage], labels: MaskLabels, on_top: OnTop
) -> WrittenSplit:
    """Write every photograph to `folder` and its mask, an indexed PNG, to the folder beside it.

    A photograph is copied as it is, unless its suffix is none of `IMAGE_SUFFIXES`, or the camera
    stored it turned: then it becomes a .png, upright or, where it was annotated so, as stored.
    Raises DataError for a photograph that is missing, damaged, or not of the size that was
    annotated.
    """
    masks = folder.with_name(folder.name + MASKS)
    folder.mkdir(parents=True)
    masks.mkdir()
    pixels, holding = np.zeros(256, np.int64), np.zeros(256, np.int64)
    count, not_square, without = 0, 0, []
    for image in images:
        content, suffix, (width, height) = _photograph(image)
        mask = paint(image.shapes, labels.labels, width, height, labels.unlabelled, on_top)
        (folder / f"{image.name}{suffix}").write_bytes(content)
        labels.table.indexed(mask).save(masks / f"{image.name}.png")
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels += counts
        holding += counts > 0
        count += 1
        not_square += width != height
        if not image.shapes:
            without.append(image.name)
    return WrittenSplit(count, tuple(without), not_square, pixels, holding)


def write_set(dataset: LabelledSet, folder: Path) -> list[str]:
    """Write images, masks and class table below `folder`; returns a summary, as lines of text.

    Images become real/train/NAME.png and real/test/NAME.png at the set's `image_size`, and their
    labels NAME.npy (uint8) beside them, so that reading them at this size gives the same bytes.
    """
    train = _write_samples(folder / TRAIN, dataset.train)
    test = _write_samples(folder / TEST, dataset.test)
    table = class_yaml(dataset.classes, train, test)
    (folder / CLASSES).write_text(table, encoding="utf-8")
    return summary(dataset.classes, train, test)


def _write_samples(folder: Path, split: LabelledSplit) -> WrittenSplit:
    folder.mkdir(parents=True)
    pixels, holding = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for sample in split:
        photo = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        Image.fromarray(photo).save(folder / f"{sample.name}.png")
        mask = sample.mask.numpy()
        (folder / f"{sample.name}.npy").write_bytes(npy(mask))
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels += counts
        holding += counts > 0
    return WrittenSplit(len(split), (), 0, pixels, holding)


def class_yaml(table: ClassTable, train: WrittenSplit, test: WrittenSplit) -> str:
    """The table in the format of `load_class_table`, with every class's area in both splits."""
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


def summary(table: ClassTable, train: WrittenSplit, test: WrittenSplit) -> list[str]:
    """Lines of text: images of both splits, and the area and images of every class."""
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
    """Content, suffix and (width, height) of the file to write."""
    if isinstance(image.photo, Path) and not image.photo.is_file():
        raise DataError(
            f"image '{image.shown_as}' is missing. Put it there, or name the folder of the images "
            "with --images."
        )
    content = image.photo.read_bytes() if isinstance(image.photo, Path) else image.photo
    photo = read_image(io.BytesIO(content), image.shown_as)
    turned = photo.info[TURNED]
    if turned and image.size not in (None, photo.size):
        # A tool that knows nothing of EXIF showed it, and the outlines drawn on it, as stored.
        photo = read_image(io.BytesIO(content), image.shown_as, upright=False)
    if image.size not in (None, photo.size):
        raise DataError(
            f"image '{image.shown_as}' is {photo.width}x{photo.height}, but was annotated at "
            f"{image.size[0]}x{image.size[1]}. Restore the image that was annotated."
        )
    if turned or image.suffix.lower() not in IMAGE_SUFFIXES:
        return _png(photo), ".png", photo.size
    return content, image.suffix, photo.size


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def _colour(label: int, name: str) -> tuple[int, int, int]:
    return BACKGROUND_RGB if name.casefold() == BACKGROUND else generated_colour(label)


def _shares(label: int, *splits: WrittenSplit) -> list[float]:
    """Percent of each split's pixels that have the label."""
    return [100 * float(split.pixels[label]) / float(split.pixels.sum()) for split in splits]


def _quoted(text: str) -> str:
    """Quote any text for YAML, whose double-quoted strings include JSON's."""
    return json.dumps(text, ensure_ascii=False)
