"""Annotations of labelme: one JSON file per image, with polygons, rectangles and circles.

Source: wkentaro/labelme, `label_file.py` and `utils/shape.py`.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from ddpmseg.data.convert.annotations import (
    IGNORED,
    AnnotatedImage,
    AnnotatedSet,
    PhotoFinder,
    check_points,
    class_name,
    image_size,
    read_json,
)
from ddpmseg.errors import DataError

KINDS = {"polygon": 3, "rectangle": 2, "circle": 2, "rotation": 3, "quadrilateral": 3}
"""Shapes that have an area -> the points that each needs. The last two are X-AnyLabeling's."""


def read_labelme(files: Sequence[Path], image_folder: Path | None = None) -> AnnotatedSet:
    """Read one annotation file per image.

    The photograph is the one that the file embeds (`imageData`), else `imagePath` beside the file
    or in `image_folder`; none is read from disk. Classes are sorted by name. '_background_' is
    called 'background', and `IGNORED` is no class.

    Raises DataError for what cannot be used; the message names the file and the shape.
    """
    finders: dict[Path, PhotoFinder] = {}
    images: list[AnnotatedImage] = []
    for path in files:
        folder = image_folder or path.parent
        images.append(_image(path, finders.setdefault(folder, PhotoFinder(folder))))
    images.sort(key=lambda image: image.name)
    labels = {shape.label for image in images for shape in image.shapes}
    return AnnotatedSet(tuple(sorted(labels - {IGNORED})), tuple(images))


@dataclass(frozen=True)
class LabelmeShape:
    """A polygon (corners), rectangle (opposite corners) or circle (centre, point on the rim)."""

    label: str
    kind: str
    points: list[tuple[float, float]]

    def covers(self, width: int, height: int) -> Bool[np.ndarray, "h w"]:
        """See `Shape.covers`; the area includes the outline, as in labelme's own export."""
        canvas = Image.new("1", (width, height))
        draw = ImageDraw.Draw(canvas)
        if self.kind == "polygon":
            draw.polygon(self.points, fill=1, outline=1)
        elif self.kind == "rectangle":
            (x0, x1), (y0, y1) = (sorted(axis) for axis in zip(*self.points, strict=True))
            draw.rectangle((x0, y0, x1, y1), fill=1, outline=1)
        else:
            (x, y), rim = self.points
            radius = math.dist((x, y), rim)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
        return np.array(canvas)


def _image(path: Path, photos: PhotoFinder) -> AnnotatedImage:
    content = read_json(path)
    shapes = content.get("shapes")
    if not isinstance(shapes, list):
        hint = " (it looks like COCO: name the file itself)" if "annotations" in content else ""
        raise DataError(f"'{path}' has no list of `shapes`, so it is no file of labelme{hint}.")
    image_path = str(content.get("imagePath") or "")
    photo, written = photos.find(image_path)
    if not written.name:
        raise DataError(f"'{path}' has no `imagePath`.")
    photo = _embedded(content, path) or photo
    return AnnotatedImage(
        name=written.stem,
        photo=photo,
        suffix=written.suffix,
        size=image_size(content.get("imageWidth"), content.get("imageHeight"), f"'{path}'"),
        shapes=tuple(_shape(shape, index, path) for index, shape in enumerate(shapes)),
        shown_as=str(photo) if isinstance(photo, Path) else f"{path}: imageData",
    )


def _embedded(content: dict[str, Any], path: Path) -> bytes | None:
    data = content.get("imageData")
    if data is None:
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DataError(f"`imageData` in '{path}' is damaged ({error}).") from error


def _shape(shape: Any, index: int, path: Path) -> LabelmeShape:
    where = f"shape {index + 1} of '{path}'"
    if not isinstance(shape, dict) or not isinstance(shape.get("points"), list):
        raise DataError(f"{where} is no object with `label` and `points`.")
    label = class_name(shape.get("label"), where)
    where = f"{where} ('{label}')"
    kind = shape.get("shape_type") or "polygon"  # before version 3.10 every shape was one
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(
            f"{where} is a {kind}; only {', '.join(KINDS)} can be converted. Redraw it as a "
            "polygon, or remove it."
        )
    points = check_points(shape["points"], KINDS[kind], where)
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling names all corners
        kind, points = _rectangle(points)
    elif kind in ("rectangle", "circle") and len(points) != 2:
        allowed = "two opposite corners, or all four" if kind == "rectangle" else "two"
        raise DataError(
            f"{where} is a {kind} with {len(points)} points; it has {allowed}. Redraw it, or make "
            "it a polygon (`shape_type`)."
        )
    elif kind in ("rotation", "quadrilateral"):
        kind = "polygon"
    return LabelmeShape("background" if label == "_background_" else label, kind, points)


def _rectangle(corners: list[tuple[float, float]]) -> tuple[str, list[tuple[float, float]]]:
    """The kind and points of a rectangle given by its four corners; a turned one is a polygon."""
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*corners, strict=True))
    if set(corners) == {(x0, y0), (x0, y1), (x1, y0), (x1, y1)}:
        return "rectangle", [(x0, y0), (x1, y1)]
    return "polygon", corners
