"""Which of the labelled images are used: nested subsets, and other splits than the official one."""

import torch

from ddpmseg.randomness import keyed_generator


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
