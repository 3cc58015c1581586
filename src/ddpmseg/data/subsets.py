"""Which of the labelled images are used: nested subsets, other splits, the most certain."""

from collections.abc import Sequence

import torch

from ddpmseg.randomness import keyed_generator

MOST_CERTAIN = 30 / 50_000
"""Share of the synthetic images that the original leaves out for being too certain."""


def nested_subset(count: int, total: int, seed: int | None) -> list[int]:
    """Choose `count` of the indices 0..total-1, so that a smaller choice begins every larger one.

    `seed` None takes the first in file order, as the reference does; an integer takes a prefix of
    the one permutation it seeds. Raises ValueError unless 0 <= count <= total.
    """
    if not 0 <= count <= total:
        raise ValueError(f"cannot choose {count} of {total}")
    if seed is None:
        return list(range(count))
    generator = keyed_generator(seed, "labelled subset")
    return torch.randperm(total, generator=generator)[:count].tolist()


def random_split(
    num_train: int, num_test: int, total: int, seed: int
) -> tuple[list[int], list[int]]:
    """Deal the indices 0..total-1 to a training and a test split of the given sizes, anew.

    The training images come in the order they were dealt, the test images in index order. Raises
    ValueError where there are too few.
    """
    if num_train + num_test > total:
        raise ValueError(f"cannot choose {num_train} and {num_test} of {total}")
    order = torch.randperm(total, generator=keyed_generator(seed, "random split")).tolist()
    return order[:num_train], sorted(order[num_train : num_train + num_test])


def least_uncertain(uncertainties: Sequence[float], keep: int, drop_certain: int) -> list[int]:
    """Choose `keep` indices in ascending order: the most certain, less the `drop_certain` first.

    Equal values count in the order given. Raises ValueError unless
    keep + drop_certain <= len(uncertainties).

    Source: the original's DatasetDDPM, which sorts 50,000 synthetic images by uncertainty and drops
    the first 30 and the last 4970.
    """
    if keep < 0 or drop_certain < 0 or keep + drop_certain > len(uncertainties):
        raise ValueError(f"cannot keep {keep} of {len(uncertainties)} less {drop_certain}")
    order = sorted(range(len(uncertainties)), key=lambda index: uncertainties[index])
    return sorted(order[drop_certain : drop_certain + keep])


def num_most_certain(total: int) -> int:
    """As many of `total` images as the original's 30 are of 50,000."""
    return round(MOST_CERTAIN * total)


def num_filtered(total: int, share: float) -> int:
    """How many of `total` images are left out where a `share` of them, 0 <= share < 1, shall be."""
    return round(share * total)
