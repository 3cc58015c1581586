"""Training data that is a pure function of the step, so that a resumed run equals an unbroken one.

No random state has to be saved: step s always sees the same batch, whatever ran before it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


def step_generator(*key: int) -> torch.Generator:
    """CPU generator whose stream depends on all of `key`, such as (seed, step)."""
    state = 0x9E3779B97F4A7C15
    for part in key:
        # One round of splitmix64 per part (Steele, Lea and Flood 2014): nearby keys, unlike streams.
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


def shuffled_indices(step: int, batch_size: int, count: int, *key: int) -> Tensor:
    """Indices (batch_size,) of batch `step` when epoch after epoch of `count` items is shuffled.

    A batch may span two epochs; every item is drawn once per epoch. int64.
    """
    first = step * batch_size
    epochs = range(first // count, (first + batch_size - 1) // count + 1)
    order = torch.cat([torch.randperm(count, generator=step_generator(*key, e)) for e in epochs])
    start = first - epochs[0] * count
    return order[start : start + batch_size]


class _Steps(Dataset):
    def __init__(self, make_batch: Callable[[int], Any], num_steps: int) -> None:
        self.make_batch, self.num_steps = make_batch, num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Any:
        return self.make_batch(step)


class _FromStep(Sampler[int]):
    def __init__(self, num_steps: int, current_step: Callable[[], int]) -> None:
        self.num_steps, self.current_step = num_steps, current_step

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.current_step(), self.num_steps))


def step_loader(
    make_batch: Callable[[int], Any],
    num_steps: int,
    current_step: Callable[[], int],
    num_workers: int = 0,
) -> DataLoader:
    """Loader of `make_batch(step)` from the step the trainer has reached up to `num_steps`."""
    return DataLoader(
        _Steps(make_batch, num_steps),
        batch_size=None,
        sampler=_FromStep(num_steps, current_step),
        num_workers=num_workers,
    )
