"""Divides work over the processes of a run on several devices, and communicates between them.

A run on N devices has N processes, numbered from 0 by `rank`. On one device there is one process,
rank 0 of 1, and the functions here return their arguments unchanged.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


def num_ranks() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def is_first() -> bool:
    """Whether this is rank 0, the only one that trains heads and writes records."""
    return rank() == 0


def shares(count: int, unit: int = 1) -> list[range]:
    """Divide 0..count-1 into one range per rank, in order.

    Shares consist of whole units, such as the images of a forward pass, so that batches equal those
    of a single process. With fewer units than ranks they consist of single items; with fewer items
    than ranks some are empty.
    """
    ranks = num_ranks()
    units = -(-count // unit)
    if units < ranks:
        unit, units = 1, count
    ends = [min(count, index * units // ranks * unit) for index in range(ranks + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def own_rows(count: int) -> slice:
    """This rank's rows of a batch of `count`, which is divisible by the number of ranks."""
    size = count // num_ranks()
    return slice(rank() * size, (rank() + 1) * size)


def gathered(value: Value) -> list[Value]:
    """The values of all ranks, by rank, on every rank. They are pickled: keep them small."""
    if not _is_distributed():
        return [value]
    values: list[Value | None] = [None] * num_ranks()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def from_first(value: Value) -> Value:
    """The value of rank 0, on every rank, which may wait long for it. Pickled like `gathered`."""
    if not _is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def collect_rows(rows: Tensor, parts: Sequence[range]) -> None:
    """Copy the rows of the other ranks into `rows` of rank 0, in place. All on the CPU.

    `parts` are the `shares` of the rows. Rank 0 passes a tensor for all rows, with its own filled
    in; every other rank passes only its own rows.
    """
    if not _is_distributed():
        return
    if is_first():
        for source, part in enumerate(parts):
            if source and part:
                dist.recv(rows[part.start : part.stop], source)
    elif len(rows):
        dist.send(rows, 0)


def share_state(module: nn.Module) -> None:
    """Copy the weights and buffers of rank 0 to all ranks, in place."""
    if _is_distributed():
        for value in module.state_dict().values():
            dist.broadcast(value, 0)


def mean(value: Tensor) -> Tensor:
    """The mean of a number over the ranks, without gradient."""
    value = value.detach()
    if _is_distributed():
        value = value.clone()
        dist.all_reduce(value)
        value /= num_ranks()
    return value


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over the ranks."""
    if _is_distributed():
        value = value.clone()
        dist.all_reduce(value)
    return value


def wait_for_all() -> None:
    """Wait until every rank has called this."""
    if _is_distributed():
        dist.barrier()


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
