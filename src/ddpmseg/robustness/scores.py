"""How much of a head's score is left on corrupted images (paper, figure 6)."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ddpmseg.data.corruptions import TYPES, Corruption, level
from ddpmseg.records.run_table import describe, run_table, variants
from ddpmseg.records.runs import DATASET, METHOD, Run, Summary
from ddpmseg.tables.table import Row, Table

COLUMNS = (
    "run", "method", "dataset", "corruption", "severity", "level", "num_test",
    "miou", "miou_present", "pixel_accuracy", "drop",
)  # fmt: skip
"""Of `robustness.csv`. The clean images have the severity 0. drop: see `relative_drop`."""


@dataclass(frozen=True, eq=False)
class Robustness:
    """Scores of one run, by name and as fractions, on its test images and on their versions."""

    run: Run
    num_test: int
    clean: Mapping[str, float]
    corrupted: Mapping[Corruption, Mapping[str, float]]

    def drop(self, corruption: Corruption) -> float:
        return relative_drop(self.clean["miou"], self.corrupted[corruption]["miou"])

    def rows(self) -> list[dict[str, object]]:
        """Clean first, then every corruption."""
        versions = [("clean", 0, "clean", self.clean, 0.0)]
        for one, scores in self.corrupted.items():
            versions.append((one.type, one.severity, level(one.severity), scores, self.drop(one)))
        about = (self.run.folder, self.run.text(METHOD), self.run.text(DATASET))
        rows = []
        for *version, scores, drop in versions:
            values = (*about, *version, self.num_test, *scores.values(), drop)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        return rows


def relative_drop(clean: float, corrupted: float) -> float:
    """1 - corrupted / clean: the share of the score that is lost, below 0 where it rises.

    NaN where there is nothing to lose.
    """
    return 1 - corrupted / clean if clean else float("nan")


@dataclass(frozen=True, eq=False)
class Line:
    """Runs that differ in nothing but their seeds, over the same corruptions."""

    label: str
    runs: tuple[Robustness, ...]

    @property
    def corruptions(self) -> Collection[Corruption]:
        return self.runs[0].corrupted

    def clean(self) -> Summary | None:
        return _summary([run.clean["miou"] for run in self.runs])

    def miou(self, severity: int) -> Summary | None:
        """Of the mean over types."""
        return _summary(
            [
                mean(s["miou"] for one, s in run.corrupted.items() if one.severity == severity)
                for run in self.runs
            ]
        )

    def drop(self, severity: int, type: str | None = None) -> Summary | None:
        """Of the relative drop of one type, or of its mean over types; None where it is unknown."""
        some = [
            one for one in self.corruptions if one.severity == severity and type in (None, one.type)
        ]
        return _summary([mean(map(run.drop, some)) for run in self.runs])


def _summary(values: Sequence[float]) -> Summary | None:
    """Without a note on the number of runs where there is one: most tables have one each."""
    found = Summary.of(values)
    if math.isnan(found.mean):
        return None
    return found if len(values) > 1 else Summary(found.mean, None)


def lines(tested: Sequence[Robustness]) -> list[Line]:
    """Runs over seeds together, others apart: by method, by dataset where there are several, and by
    what else tells them from each other."""
    by_folder = {one.run.folder: one for one in tested}
    runs = run_table([one.run for one in tested])
    found = []
    for variant, group in variants(runs, (METHOD, DATASET)).items():
        for (method, dataset), same in group.groupby([METHOD, DATASET], observed=True):
            name = f"{method}, {dataset}" if runs[DATASET].nunique() > 1 else str(method)
            label = name + (f": {describe(variant)}" if variant else "")
            found.append(Line(label, tuple(by_folder[folder] for folder in same.index)))
    order = list(by_folder)
    return sorted(found, key=lambda line: order.index(line.runs[0].run.folder))


def severities(lines: Iterable[Line]) -> list[int]:
    return sorted({one.severity for line in lines for one in line.corruptions})


def types(lines: Iterable[Line]) -> list[str]:
    """In the order of `TYPES`."""
    return sorted({one.type for line in lines for one in line.corruptions}, key=TYPES.index)


def miou_table(lines: Sequence[Line]) -> Table:
    """mIoU in percent on clean images, and its mean over types at every severity."""
    steps = severities(lines)
    rows = tuple(
        Row((line.label,), (line.clean(), *(line.miou(step) for step in steps))) for line in lines
    )
    return Table((METHOD,), ("clean", *map(level, steps)), rows)


def drop_table(lines: Sequence[Line]) -> Table:
    """Relative drop of the mIoU in percent: a row for each type and the mean of all, a column for
    each line and severity."""
    columns = [(line, step) for line in lines for step in severities(lines)]
    named: list[tuple[str, str | None]] = [(name, name) for name in types(lines)]
    rows = tuple(
        Row((shown,), tuple(line.drop(step, name) for line, step in columns))
        for shown, name in [*named, ("mean", None)]
    )
    return Table(("corruption",), tuple(f"{line.label}, {level(s)}" for line, s in columns), rows)
