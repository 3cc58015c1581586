"""The processes of one run on several devices: which share is whose, and what passes between them.

A run on N devices is N processes; `rank` numbers them from 0. On one device there is a single
process, rank 0 of 1, and every function here hands back what it was given.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


def num_ranks() -> int:
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    return dist.get_rank() if _several() else 0


def is_first() -> bool:
    """Whether this is rank 0, which alone trains heads and writes records."""
    return rank() == 0


def shares(count: int, unit: int = 1) -> list[range]:
    """The part of 0..count-1 that falls to each rank: in order, none twice, none left out.

    A share is whole units, such as the images of a forward pass, so that batches are those of one
    process. Where there are fewer units than ranks, it is single items; with fewer items than
    ranks some shares are empty.
    """
    ranks = num_ranks()
    units = -(-count // unit)
    if units < ranks:
        unit, units = 1, count
    ends = [min(count, index * units // ranks * unit) for index in range(ranks + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def own_rows(count: int) -> slice:
    """The rows of a batch of `count` that fall to this rank; `count` is divisible by the ranks."""
    each = count // num_ranks()
    return slice(rank() * each, (rank() + 1) * each)


def gathered(value: Value) -> list[Value]:
    """What every rank gave, by rank, on all of them. It is pickled: keep it small."""
    if not _several():
        return [value]
    values: list[Value | None] = [None] * num_ranks()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def from_first(value: Value) -> Value:
    """What rank 0 gave, on all of them; it may wait long for it. Pickled like `gathered`."""
    if not _several():
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def collect_rows(rows: Tensor, parts: Sequence[range]) -> None:
    """Fill `rows` of rank 0 with those of the other ranks, in place. All on the CPU.

    `parts` are the `shares` of the rows. Rank 0 gives all rows, of which it has filled its own;
    the others give theirs alone.
    """
    if not _several():
        return
    if is_first():
        for source, part in enumerate(parts):
            if source and part:
                dist.recv(rows[part.start : part.stop], source)
    elif len(rows):
        dist.send(rows, 0)


def share_state(module: nn.Module) -> None:
    """Give the weights and buffers of rank 0 to all ranks, in place."""
    if _several():
        for value in module.state_dict().values():
            dist.broadcast(value, 0)


def mean(value: Tensor) -> Tensor:
    """The mean over the ranks of a number that all have, without gradient."""
    value = value.detach()
    if _several():
        value = value.clone()
        dist.all_reduce(value)
        value /= num_ranks()
    return value


def total(value: Tensor) -> Tensor:
    """The sum over the ranks of a tensor that all have."""
    if _several():
        value = value.clone()
        dist.all_reduce(value)
    return value


def wait_for_all() -> None:
    """Go on once every rank has come here."""
    if _several():
        dist.barrier()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
