"""Training data that is a pure function of the step, so that a resumed run equals an unbroken one.

No random state has to be saved: step s always sees the same batch, whatever ran before it.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpmseg.randomness import keyed_generator


def shuffled_indices(step: int, batch_size: int, count: int, *key: int) -> Tensor:
    """Indices of batch `step` when `count` items are shuffled anew for every epoch. int64.

    The last incomplete batch of an epoch is dropped. Where there are fewer items than a batch
    takes, the batch is all of them, repeated to fill it.
    """
    batches = max(1, count // batch_size)
    order = _epoch_order(count, step // batches, *key)
    first = (step % batches) * batch_size
    indices = order[first : first + batch_size]
    return indices.repeat(-(-batch_size // len(indices)))[:batch_size]


@lru_cache(maxsize=32)
def _epoch_order(count: int, epoch: int, *key: int) -> Tensor:
    return torch.randperm(count, generator=keyed_generator(*key, epoch))


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
