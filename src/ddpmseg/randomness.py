"""Random streams that depend on their purpose, not on what ran before."""

import hashlib

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


class EpochShuffle:
    """Batches of the indices 0..count-1, which every epoch shuffles anew.

    A batch depends only on (key, step). The order of the current epoch is kept: 8 * count bytes.
    """

    def __init__(self, count: int, batch_size: int, *key: int) -> None:
        self.count, self.batch_size, self.key = count, batch_size, key
        self._epoch: int | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """Indices of batch `step`, int64.

        The last incomplete batch of an epoch is dropped. With fewer indices than a batch takes, the
        batch is all of them, repeated to fill it.
        """
        epoch, position = divmod(step, max(1, self.count // self.batch_size))
        if epoch != self._epoch:
            generator = keyed_generator(*self.key, epoch)
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        indices = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        return indices.repeat(-(-self.batch_size // len(indices)))[: self.batch_size]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
