"""Subsets of the labelled images: nested, seeded, within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpmseg.data.subsets import least_uncertain, nested_subset, random_split


@given(st.data(), st.integers(0, 60), st.none() | st.integers(-(2**40), 2**40))
def test_smaller_subsets_begin_larger_ones(
    data: st.DataObject, total: int, seed: int | None
) -> None:
    large = data.draw(st.integers(0, total))
    small = data.draw(st.integers(0, large))
    chosen = nested_subset(large, total, seed)
    assert len(set(chosen)) == large
    assert set(chosen) <= set(range(total))
    assert nested_subset(small, total, seed) == chosen[:small]
    if seed is None:
        assert chosen == list(range(large))


def test_subsets_depend_on_the_seed_and_never_change() -> None:
    assert nested_subset(5, 30, 0) == [7, 6, 22, 15, 20]
    assert len({tuple(nested_subset(5, 30, seed)) for seed in range(20)}) == 20


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="cannot choose 4 of 3"):
        nested_subset(4, 3, 0)


def test_a_random_split_never_changes_and_needs_enough_images() -> None:
    train, test = random_split(3, 2, 8, 0)
    assert len({*train, *test}) == 5
    assert random_split(3, 2, 8, 0) == (train, test)
    with pytest.raises(ValueError, match="cannot choose 3 and 6 of 8"):
        random_split(3, 6, 8, 0)


@given(st.lists(st.floats(0, 1), max_size=30), st.data())
def test_the_most_certain_are_kept_less_the_first(values: list[float], data: st.DataObject) -> None:
    dropped = data.draw(st.integers(0, len(values)))
    keep = data.draw(st.integers(0, len(values) - dropped))
    chosen = least_uncertain(values, keep, dropped)
    assert chosen == sorted(set(chosen))
    by_value = sorted(values)
    assert sorted(values[index] for index in chosen) == by_value[dropped : dropped + keep]


def test_of_equal_certainty_the_earlier_comes_first() -> None:
    assert least_uncertain([0.2, 0.1, 0.1, 0.1], keep=2, drop_certain=1) == [2, 3]
    with pytest.raises(ValueError, match="cannot keep 3 of 4 less 2"):
        least_uncertain([0.2, 0.1, 0.1, 0.1], keep=3, drop_certain=2)
