"""Chooses among labelled images: nested subsets, random splits, the least uncertain."""

from collections.abc import Sequence

import torch

from ddpmseg.randomness import keyed_generator

MOST_CERTAIN = 30 / 50_000
"""Share of the synthetic images that the original drops as too certain."""


def nested_subset(count: int, total: int, seed: int | None) -> list[int]:
    """Choose `count` of the indices 0..total-1; a smaller choice is a prefix of a larger one.

    `seed` None takes the first indices, as the reference does; an integer takes a prefix of the
    permutation that it seeds. Raises ValueError unless 0 <= count <= total.
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
    """Divide the indices 0..total-1 at random into a training and a test split of given sizes.

    Training indices come in the order drawn, test indices in ascending order. Raises ValueError
    when there are too few.
    """
    if num_train + num_test > total:
        raise ValueError(f"cannot choose {num_train} and {num_test} of {total}")
    order = torch.randperm(total, generator=keyed_generator(seed, "random split")).tolist()
    return order[:num_train], sorted(order[num_train : num_train + num_test])


def least_uncertain(uncertainties: Sequence[float], keep: int, drop_certain: int) -> list[int]:
    """Sort by uncertainty, skip the first `drop_certain` and choose the next `keep`.

    Returns indices in ascending order. Equal values keep their order. Raises ValueError unless
    keep + drop_certain <= len(uncertainties).

    Source: the original's DatasetDDPM, which sorts 50,000 synthetic images by uncertainty and drops
    the first 30 and the last 4970.
    """
    if keep < 0 or drop_certain < 0 or keep + drop_certain > len(uncertainties):
        raise ValueError(f"cannot keep {keep} of {len(uncertainties)} less {drop_certain}")
    order = sorted(range(len(uncertainties)), key=lambda index: uncertainties[index])
    return sorted(order[drop_certain : drop_certain + keep])


def num_most_certain(total: int) -> int:
    """Number of `total` images to drop as too certain, in the original's ratio 30 : 50,000."""
    return round(MOST_CERTAIN * total)


def num_filtered(total: int, share: float) -> int:
    """Number of images that a `share`, 0 <= share < 1, of `total` drops."""
    return round(share * total)
