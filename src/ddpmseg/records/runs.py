"""Finished runs of `ddpmseg train` over seeds: which repeat each other, their means and spreads."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
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


OF_A_NAME = ("dataset.", "backbone.", "head.checkpoint", "segmenter.images")
"""How keys begin that differ wherever datasets or backbones do."""


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


Variant = tuple[tuple[str, str], ...]
"""Settings, by key and as text, that tell some runs from others; empty where nothing does."""


def variants(
    runs: Iterable[Run], apart: Collection[str], repeats: Collection[str] = REPEATS
) -> dict[Variant, list[Run]]:
    """Runs by all that differs between them, beyond the settings `apart` and `repeats`.

    A dataset's or a backbone's own settings, the ensemble of `head.checkpoint` and the folder of
    `segmenter.images` tell runs apart only where the name of dataset (and backbone) is the same,
    since the name does so already. Where
    methods are `apart`, or datasets, only runs of the same are compared. Ordered by their settings.
    """
    runs = list(runs)
    keys = sorted({key for run in runs for key in run.settings} - {*apart, *repeats, METHOD})
    found: dict[str, dict[tuple[str, ...], set[str]]] = {key: {} for key in keys}
    for run in runs:
        for key in keys:
            found[key].setdefault(_circle(run, key, apart), set()).add(run.text(key))
    groups: dict[Variant, list[Run]] = {}
    for run in runs:
        differing = [key for key in keys if len(found[key][_circle(run, key, apart)]) > 1]
        groups.setdefault(tuple((key, run.text(key)) for key in differing), []).append(run)

    def order(variant: Variant) -> list[tuple[str, tuple[int, Any]]]:
        return [(key, place(groups[variant][0].settings.get(key))) for key, _ in variant]

    return {variant: groups[variant] for variant in sorted(groups, key=order)}


def _circle(run: Run, key: str, apart: Collection[str]) -> tuple[str, ...]:
    """Names that runs must share for a difference in `key` to count."""
    names = [METHOD] if METHOD in apart else []
    if key == BACKBONE:
        names += [DATASET] if DATASET in apart else []
    elif key.startswith(OF_A_NAME) and key != DATASET:
        names += [DATASET] if key.startswith("dataset.") else [DATASET, BACKBONE]
    return tuple(run.text(name) for name in names)


def without_repeats(runs: Iterable[Run]) -> tuple[list[Run], dict[str, str]]:
    """The runs without those of the same settings and seeds as an earlier one, and of these each
    folder with the folder it repeats: counting both would make the spread too small."""
    first: dict[str, Run] = {}
    repeats = {}
    for run in runs:
        identity = json.dumps(dict(run.settings), sort_keys=True)
        earlier = first.setdefault(identity, run)
        if earlier is not run:
            repeats[run.folder] = earlier.folder
    return list(first.values()), repeats


def in_order(runs: Iterable[Run], key: str) -> list[str]:
    """The values of a setting as text: null first, numbers and lists by size, then words."""
    values = {run.text(key): run.settings.get(key) for run in runs}
    return sorted(values, key=lambda text: place(values[text]))


def place(value: Any) -> tuple[int, Any]:
    """Where a setting's value comes in order: null first, numbers and lists by size, then words."""
    if value is None:
        return 0, 0
    if isinstance(value, bool | int | float):
        return 1, value
    if isinstance(value, list):
        return 2, [place(item) for item in value]
    return 3, str(value)
