"""Annotations in the format of COCO: polygons and run-length encoded masks in one JSON file.

Format: https://cocodataset.org/#format-data, "object detection".
"""

import re
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ddpmseg.data.convert.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    PhotoFinder,
    check_points,
    class_name,
    image_size,
    read_json,
)
from ddpmseg.errors import DataError, MissingLibraryError


def read_coco(path: Path, image_folder: Path) -> AnnotatedSet:
    """Read the images, categories and annotations of `path`; a `file_name` is below `image_folder`.

    Classes come in the order of the category ids. A crowd (`iscrowd`) is an area of its category
    like any other: a mask does not separate objects of a class. No photograph is read.

    Raises ConfigError without pycocotools, and DataError for what cannot be used; the message names
    the file and the annotation.
    """
    _mask_api()
    content = read_json(path)
    categories = _by_id(content, "categories", path)
    names = {
        key: class_name(categories[key].get("name"), f"category {key} of '{path}'")
        for key in sorted(categories)
    }
    for name, count in Counter(names.values()).items():
        if count > 1:
            raise DataError(f"'{path}' has {count} categories named '{name}'. Rename or join them.")
    records = _by_id(content, "images", path)
    shapes: defaultdict[int, list[CocoShape]] = defaultdict(list)
    for index, annotation in enumerate(_records(content, "annotations", path)):
        where = f"annotation {annotation.get('id', f'number {index + 1}')} of '{path}'"
        image = _known(annotation, "image_id", records, where)
        category = _known(annotation, "category_id", categories, where)
        where = f"{where} (image '{records[image].get('file_name')}', class '{names[category]}')"
        shapes[image].append(CocoShape(names[category], _area(annotation, where), where))
    photos = PhotoFinder(image_folder)
    images = [_image(records[key], path, photos, tuple(shapes[key])) for key in sorted(records)]
    return AnnotatedSet(tuple(names.values()), tuple(sorted(images, key=lambda i: i.name)))


COMPRESSED = "[0-o]*[0-O]"
"""Compressed `counts`: characters up to "O" end a number, characters from "P" on do not."""


@dataclass(frozen=True)
class CocoShape:
    """One annotation.

    area: polygons, each a list x, y, x, y, ... in pixels, or run lengths as pycocotools takes them
        (`size` and compressed `counts`).
    """

    label: str
    area: dict[str, Any] | list[list[float]]
    where: str

    def covers(self, width: int, height: int) -> Bool[np.ndarray, "h w"]:
        """See `Shape.covers`."""
        area, masks = self.area, _mask_api()
        if isinstance(area, list):
            encoded = masks.merge(masks.frPyObjects(area, height, width))
        elif area["size"] == [height, width]:
            encoded = area
        else:
            raise DataError(
                f"{self.where} is encoded for {area['size'][1]}x{area['size'][0]} pixels, but the "
                f"image is {width}x{height}. Export it again, or restore the image."
            )
        return _decode(encoded).astype(bool)


def _decode(encoded: dict[str, Any]) -> UInt8[np.ndarray, "h w"]:
    """Mask with 1 inside. Raises ValueError for run lengths that add up to more than the size."""
    with warnings.catch_warnings():
        # pycocotools 2.0.11 converts its arrays in a way that numpy 2 warns about.
        warnings.filterwarnings("ignore", ".*copy keyword.*", DeprecationWarning)
        return _mask_api().decode(encoded)


def _mask_api() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingLibraryError("reading COCO", "pycocotools", "annotations") from error
    return mask


def _records(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    records = content.get(key)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(
            f"'{path}' has no list of objects `{key}`; a COCO file has images, annotations and "
            "categories."
        )
    return records


def _by_id(content: dict[str, Any], key: str, path: Path) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for record in _records(content, key, path):
        number = record.get("id")
        if type(number) is not int:
            raise DataError(f"`{key}` of '{path}' has the id {number!r}; it must be whole.")
        if number in by_id:
            raise DataError(f"`{key}` of '{path}' has the id {number} twice.")
        by_id[number] = record
    if not by_id:
        raise DataError(f"'{path}' lists no {key}.")
    return by_id


def _known(annotation: dict[str, Any], key: str, known: dict[int, Any], where: str) -> int:
    number = annotation.get(key)
    if type(number) is not int or number not in known:
        allowed = ", ".join(map(str, sorted(known)[:8])) + (", ..." if len(known) > 8 else "")
        raise DataError(f"{where} has {key} {number!r}; the file lists {allowed}.")
    return number


def _image(
    record: dict[str, Any], path: Path, photos: PhotoFinder, shapes: tuple[CocoShape, ...]
) -> AnnotatedImage:
    name = record.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"image {record['id']} of '{path}' has no `file_name`.")
    photo, written = photos.find(name)
    size = image_size(record.get("width"), record.get("height"), f"image '{name}' of '{path}'")
    return AnnotatedImage(written.stem, photo, written.suffix, size, shapes, str(photo))


def _area(annotation: dict[str, Any], where: str) -> dict[str, Any] | list[list[float]]:
    area = annotation.get("segmentation")
    if isinstance(area, dict):
        return _run_lengths(area, where)
    if not area or not isinstance(area, list):
        raise DataError(f"{where} has no `segmentation`: a box alone does not say which pixels.")
    for polygon in area:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise DataError(f"{where} has a polygon that is no list x, y, x, y, ...: {polygon!r}.")
        check_points(list(zip(polygon[::2], polygon[1::2], strict=True)), 3, where)
    return area


def _run_lengths(area: dict[str, Any], where: str) -> dict[str, Any]:
    """Check a run-length encoding and return it as pycocotools takes it."""
    size, counts = area.get("size"), area.get("counts")
    if not isinstance(size, list) or [type(n) for n in size] != [int, int] or min(size) < 1:
        raise DataError(f"{where} is encoded without its `size`, [height, width].")
    encoded = None
    if isinstance(counts, str) and re.fullmatch(COMPRESSED, counts):
        encoded = {"size": size, "counts": counts.encode()}
    elif isinstance(counts, list) and all(type(n) is int and 0 <= n < 2**31 for n in counts):
        encoded = _mask_api().frPyObjects({"size": size, "counts": counts}, *size)
    if encoded is None or not _fills(encoded):
        raise DataError(
            f"{where} has damaged run lengths: they do not add up to the {size[0]} x {size[1]} "
            "pixels of its size. Export it again."
        )
    return encoded


def _fills(encoded: dict[str, Any]) -> bool:
    """Whether the run lengths add up to the pixels of the size.

    pycocotools refuses a larger sum, and leaves pixels undefined after a smaller one. So runs add
    up to the size when they fit it and do not fit one pixel less.
    """
    height, width = encoded["size"]
    try:
        _decode(encoded)
    except ValueError:
        return False
    try:
        _decode({"size": [height * width - 1, 1], "counts": encoded["counts"]})
    except ValueError:
        return True
    return False
