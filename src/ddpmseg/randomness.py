"""Random streams that depend on their purpose, not on what ran before."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """CPU generator whose stream depends on all of `key`, such as (seed, step) or (seed, name)."""
    state = 0x9E3779B97F4A7C15
    for part in key:
        number = part if isinstance(part, int) else _number(part)
        # One round of splitmix64 per part (Steele et al. 2014): nearby keys, unlike streams.
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


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


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
