"""The small-annotation rule: classes of a few pixels are not trained on."""

import numpy as np
from jaxtyping import UInt8

from ddpmseg.errors import ConfigError

RULES = ("scaled", "reference", "keep")
MIN_PIXELS = 20
"""Fewest pixels of a class that is trained on, in an image of 256x256."""


def drop_tiny_annotations(
    mask: UInt8[np.ndarray, "h w"], ignore_label: int, rule: str, image_size: int
) -> UInt8[np.ndarray, "h w"]:
    """Give the ignore label to every class that covers too few pixels of a training mask.

    Args:
        mask: labels at `image_size`, as trained on.
        ignore_label: new label of those pixels (0 for Bedroom-28).
        rule: 'scaled': drop classes under 20 * (image_size / 256)**2 pixels, the same share of the
            image at any size (at 64: a single pixel); 'reference': under 20 pixels; 'keep': none.
        image_size: side of the mask in pixels.

    Returns a new mask. Raises ConfigError for another rule.
    Source: Baranchuk et al. 2022; reference `train_interpreter.py` (1..19 pixels at 256x256).
    """
    threshold = tiny_threshold(rule, image_size)
    counts = np.bincount(mask.ravel(), minlength=256)
    tiny = (counts > 0) & (counts < threshold)
    return np.where(tiny[mask], np.uint8(ignore_label), mask)


def tiny_threshold(rule: str, image_size: int) -> float:
    """Number of pixels under which `rule` ignores a class. Raises ConfigError if unknown."""
    if rule == "scaled":
        return MIN_PIXELS * (image_size / 256) ** 2
    if rule == "reference":
        return float(MIN_PIXELS)
    if rule == "keep":
        return 0.0
    raise ConfigError(
        f"`dataset.tiny_annotations={rule}`: there is no such rule. Set it to one of "
        f"{', '.join(RULES)}."
    )
