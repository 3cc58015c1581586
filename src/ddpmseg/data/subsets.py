"""Which of the labelled images are used: subsets that lie inside one another."""

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
