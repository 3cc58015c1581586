"""Pictures as text: PNG data URIs for a page that is one file."""

import base64
import json
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddpmseg.data.class_table import GREY, ClassTable
from ddpmseg.report.colours import cluster_colours
from ddpmseg.report.study import ClusterMaps, Examples

MASK_CHARACTERS, PHOTO_CHARACTERS, CLUSTER_CHARACTERS = 1_100_000, 400_000, 1_000_000
"""What pictures may take of the page; larger ones are thinned to fit."""


def embedded_examples(examples: Examples, classes: ClassTable) -> dict[str, Any]:
    """Mosaics of all examples side by side: one of the images, one of the truths, one per cell."""
    palette = [*map(tuple, classes.palette.tolist()), GREY][:256]
    truths = np.where(examples.truths >= classes.num_classes, classes.num_classes, examples.truths)

    def images(step: int) -> dict[str, Any]:
        return {"images": _photo_png(np.concatenate(_thin(examples.images, step), 1))}

    def masks(step: int) -> dict[str, Any]:
        def mosaic(masks: UInt8[np.ndarray, "n h w"]) -> str:
            return _mask_png(np.concatenate(_thin(masks, step), 1), palette)

        cells = sorted(examples.masks.items())
        return {
            "step": step,
            "truths": mosaic(truths.astype(np.uint8)),
            "masks": {f"{block},{timestep}": mosaic(masks) for (block, timestep), masks in cells},
        }

    side = truths.shape[1]
    return {
        "count": len(truths),
        **_fitted(images, side, PHOTO_CHARACTERS),
        **_fitted(masks, side, MASK_CHARACTERS),
    }


def embedded_clusters(maps: ClusterMaps) -> dict[str, Any]:
    """Every picture by itself, in lists nested as the arrays are."""
    palette = [*map(tuple, cluster_colours(maps.k).tolist())]

    def pictures(step: int) -> dict[str, Any]:
        def photos(array: UInt8[np.ndarray, "n s s 3"]) -> list[str]:
            return [_photo_png(photo) for photo in _thin(array, step)]

        def masks(array: UInt8[np.ndarray, "n s s"]) -> list[str]:
            return [_mask_png(mask, palette) for mask in _thin(array, step)]

        return {
            "step": step,
            "images": photos(maps.images),
            "noised": [photos(array) for array in maps.noised],
            "labels": [[masks(array) for array in image] for image in maps.labels],
            "components": [[photos(array) for array in image] for image in maps.components],
        }

    side = maps.images.shape[1]
    fitted = _fitted(pictures, side, CLUSTER_CHARACTERS)
    return {"blocks": maps.blocks, "timesteps": maps.timesteps, **fitted}


def _fitted(pictures: Callable[[int], dict[str, Any]], side: int, limit: int) -> dict[str, Any]:
    """`pictures` at the smallest step that takes `limit` characters or leaves hardly a picture."""
    step = 1
    while len(json.dumps(content := pictures(step))) > limit and side // (step + 1) >= 16:
        step += 1
    return content


def _thin(pictures: UInt8[np.ndarray, "n h w ..."], step: int) -> UInt8[np.ndarray, "n h2 w2 ..."]:
    """Squares of step x step pixels: their mean where there are colours, else their centre."""
    if pictures.ndim == 3:
        return pictures[:, step // 2 :: step, step // 2 :: step]
    height, width = (side // step for side in pictures.shape[1:3])
    whole = pictures[:, : height * step, : width * step]
    squares = whole.reshape(len(pictures), height, step, width, step, 3)
    return squares.mean((2, 4)).round().astype(np.uint8)


def _mask_png(mask: UInt8[np.ndarray, "h w"], palette: Sequence[tuple[int, ...]]) -> str:
    picture = Image.fromarray(mask)
    picture.putpalette([value for colour in palette for value in colour])
    return _data_uri(picture)


def _photo_png(photo: UInt8[np.ndarray, "h w 3"]) -> str:
    return _data_uri(Image.fromarray(photo))


def _data_uri(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
