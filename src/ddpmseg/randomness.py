"""Random streams that depend on what they are for, not on what ran before."""

import hashlib

import torch


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


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
