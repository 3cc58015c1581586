"""Labelled images to try everything on."""

from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ddpmseg.data.ponies import draw_pony


def ponies(
    num: int,
    split: Literal["train", "test", "pretrain"] = "train",
    seed: int = 0,
    image_size: int = 64,
) -> tuple[UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s"]]:
    """The first scenes of the procedural set that the bundled network was trained on.

    split: streams of scenes that share none. seed: another one gives other scenes.

    Returns the images, RGB, and their masks, with the labels of the class table 'ponies'.

    >>> import ddpmseg
    >>> images, masks = ddpmseg.ponies(3)
    >>> images.shape, masks.shape, int(masks.max())
    ((3, 64, 64, 3), (3, 64, 64), 10)
    """
    scenes = [draw_pony(index, split, seed, image_size) for index in range(num)]
    images, masks = zip(*scenes, strict=True)
    return np.stack(images), np.stack(masks)
