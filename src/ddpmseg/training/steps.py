"""Training data that is a pure function of the step, so that a resumed run equals an unbroken one.

No random state has to be saved: step s always sees the same batch, whatever ran before it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler


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
    """Loader of `make_batch(step)` from the trainer's current step up to `num_steps`."""
    return DataLoader(
        _Steps(make_batch, num_steps),
        batch_size=None,
        sampler=_FromStep(num_steps, current_step),
        num_workers=num_workers,
    )
