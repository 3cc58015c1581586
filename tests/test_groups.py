"""Which classes count as small and as large."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpmseg.data.class_table import ClassTable, load_class_table
from ddpmseg.report.groups import group_classes


def table(num_classes: int, ignore_label: int = 255) -> ClassTable:
    names = tuple("abcdefghijklmnopqrstuvwxyz"[:num_classes])
    return ClassTable(
        "letters", names, np.zeros((num_classes, 3), np.uint8), ignore_label, None, None
    )


def test_classes_are_ranked_by_area_and_equal_ones_by_label() -> None:
    groups = group_classes(np.array([900, 5, 40, 5, 0, 30, 20]), table(7))
    assert groups.ranked == (1, 3, 6, 5, 2, 0)
    assert groups.small == (1, 3)
    assert groups.large == (2, 0)
    np.testing.assert_allclose(groups.area, np.array([900, 5, 40, 5, 0, 30, 20]) / 1000)


@pytest.mark.parametrize(
    ("occurring", "size"), [(2, 1), (3, 1), (5, 1), (6, 2), (8, 2), (9, 3), (21, 7)]
)
def test_a_group_is_a_third_rounded_down_and_at_least_one(occurring: int, size: int) -> None:
    groups = group_classes(np.arange(1, occurring + 1), table(occurring))
    assert groups.small == tuple(range(size))
    assert groups.large == tuple(range(occurring - size, occurring))


@pytest.mark.parametrize("pixels", [[0, 7, 0], [0, 0, 0]])
def test_fewer_than_two_classes_make_no_groups(pixels: list[int]) -> None:
    groups = group_classes(np.array(pixels), table(3))
    assert groups.small == groups.large == ()
    assert len(groups.ranked) == sum(p > 0 for p in pixels)
    assert groups.describe(table(3)) == (
        "Fewer than two classes occur, so there are no groups of small and large ones."
    )


def test_a_class_that_is_the_ignore_label_is_never_ranked() -> None:
    classes = load_class_table("bedroom_28")
    assert classes.ignore_label == 0
    pixels = np.arange(29) * 10
    pixels[26] = 0
    for background in (0, 1, 10**6):
        pixels[0] = background
        groups = group_classes(pixels, classes)
        assert groups.ranked == (*range(1, 26), 27, 28)
        assert groups.small == tuple(range(1, 10))
        assert groups.large == (*range(19, 26), 27, 28)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(0, 25))
def test_groups_are_the_ends_of_the_ranking(pixels: list[int], ignore_label: int) -> None:
    groups = group_classes(np.array(pixels), table(len(pixels), ignore_label))
    there = [k for k, count in enumerate(pixels) if count and k != ignore_label]
    assert sorted(groups.ranked) == there
    areas = [pixels[k] for k in groups.ranked]
    assert areas == sorted(areas)
    assert not set(groups.small) & set(groups.large)
    assert groups.small == groups.ranked[: len(groups.small)]
    assert groups.large == groups.ranked[len(there) - len(groups.large) :]
    assert len(groups.small) == len(groups.large)


def test_description_names_the_extremes_first() -> None:
    groups = group_classes(np.array([900, 5, 40, 5, 0, 30, 20]), table(7))
    assert groups.describe(table(7)) == (
        "Groups are the smallest and the largest third of the 6 classes that occur, by mean area "
        "over the test images. Small: b, d. Large: a, c."
    )
