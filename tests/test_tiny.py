"""The small-annotation rule against a loop of plain lines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpmseg.data.tiny import drop_tiny_annotations


def loop_rule(mask: np.ndarray, ignore_label: int, fewest: float) -> np.ndarray:
    kept = mask.copy()
    for label in range(256):
        pixels = [(r, c) for r, c in np.ndindex(*mask.shape) if mask[r, c] == label]
        if label != ignore_label and len(pixels) < fewest:
            for row, column in pixels:
                kept[row, column] = ignore_label
    return kept


@given(
    st.lists(st.sampled_from([0, 1, 2, 28, 254, 255]), min_size=64, max_size=64),
    st.sampled_from([0, 255]),
    st.sampled_from(
        [("keep", 8, 0.0), ("reference", 8, 20), ("scaled", 256, 20), ("scaled", 64, 1.25)]
    ),
)
def test_rule_equals_a_plain_loop(
    labels: list[int], ignore_label: int, case: tuple[str, int, float]
) -> None:
    rule, image_size, fewest = case
    mask = np.array(labels, np.uint8).reshape(8, 8)
    before = mask.copy()
    kept = drop_tiny_annotations(mask, ignore_label, rule, image_size)
    assert kept.dtype == np.uint8
    assert np.array_equal(kept, loop_rule(mask, ignore_label, fewest))
    assert np.array_equal(mask, before)


@pytest.mark.parametrize(
    ("rule", "image_size", "fewest"),
    [("scaled", 256, 20), ("scaled", 512, 80), ("scaled", 64, 2), ("reference", 64, 20)],
)
def test_rule_keeps_what_reaches_the_threshold(rule: str, image_size: int, fewest: int) -> None:
    for pixels, dropped in ((fewest - 1, True), (fewest, False)):
        mask = np.zeros((image_size, image_size), np.uint8)
        mask.ravel()[:pixels] = 3
        assert (drop_tiny_annotations(mask, 255, rule, image_size) == 255).any() == dropped
