"""Finished runs of `ddpmseg train`: what decided each, its scores, means and spreads over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

REPEATS = ("seed", "dataset.split_seed")
"""Settings over which runs are averaged: all that is drawn anew, and which images are labelled."""
DASH = "\N{EN DASH}"
"""Stands for a number that is not there."""
DATASET, BACKBONE, METHOD = "dataset.name", "backbone.name", "method"
SEGMENTER = "segmenter.name"
"""What a run has that trained a network on images an ensemble labelled, instead of a backbone."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its folder, all that decided its results by dotted key, its scores as fractions."""

    folder: str
    settings: Mapping[str, Any]
    scores: Mapping[str, float]

    def text(self, key: str) -> str:
        """A setting as an override would give it; 'null' where the run has none."""
        value = self.settings.get(key)
        if isinstance(value, str):
            return value
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation in percent, and over how many runs.

    deviation: None where it is unknown, as for a single run. runs: None for quoted numbers.
    decimals: how many are shown. signed: a difference, shown with its sign.
    """

    mean: float
    deviation: float | None
    runs: int | None = None
    decimals: int = 1
    signed: bool = False

    @classmethod
    def of(cls, scores: Sequence[float]) -> "Summary":
        """Of fractions, n - 1 in the denominator. Raises ValueError for none."""
        if not scores:
            raise ValueError("a mean needs at least one score")
        percents = [100 * score for score in scores]
        return cls(mean(percents), stdev(percents) if len(scores) > 1 else None, len(scores))

    @classmethod
    def quoted(cls, text: str) -> "Summary":
        """Of '49.4 ± 1.9' or '50.05', with as many decimals."""
        value, _, deviation = text.partition(" ± ")
        decimals = len(value.partition(".")[2])
        return cls(float(value), float(deviation) if deviation else None, None, decimals)

    def __str__(self) -> str:
        shown = f"{self.mean:{'+' if self.signed else ''}.{self.decimals}f}"
        if self.deviation is not None:
            shown += f" ± {self.deviation:.{self.decimals}f}"
        elif self.runs:
            shown += f" ± {DASH}"
        return shown if self.runs is None else f"{shown} ({self.runs})"
