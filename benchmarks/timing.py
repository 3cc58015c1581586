"""Clocks: variants of one piece of work, run after run in turn, so that they meet the same load."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass
class Timed(Generic[T]):
    """A variant: seconds of its repeats, those of its first run, and what that first run gave."""

    first: float
    result: T
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(
    variants: Mapping[str, Callable[[], T]],
    repeats: int,
    device: torch.device,
    warm_up: bool = True,
) -> dict[str, Timed[T]]:
    """Run all variants in turn, A B A B ...; `warm_up`: a run of each before, which is not counted.

    Raises ValueError for fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"{repeats} repeats; at least 1 is needed")
    timed: dict[str, Timed[T]] = {}
    for turn in range(repeats + warm_up):
        for name, work in variants.items():
            seconds, result = clocked(work, device)
            if name not in timed:
                timed[name] = Timed(seconds, result)
            if turn >= warm_up:
                timed[name].seconds.append(seconds)
    return timed


def clocked(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds of one run, until the device has finished, and its result."""
    _finish(device)
    started = time.perf_counter()
    result = work()
    _finish(device)
    return time.perf_counter() - started, result


def ratios(high: Sequence[float], low: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the medians, and the lowest and highest ratio of two runs of one turn.

    A value that is alone stands for all turns.
    """
    turns = max(len(high), len(low))
    pairs = zip(_for_all(high, turns), _for_all(low, turns), strict=True)
    found = [above / below for above, below in pairs]
    return statistics.median(high) / statistics.median(low), min(found), max(found)


def _for_all(values: Sequence[float], turns: int) -> Sequence[float]:
    return [*values] * turns if len(values) == 1 else values


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
