"""Scores of runs on corrupted images, as the command `robustness` leaves them."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from ddpmseg.data.corruptions import LEVELS
from ddpmseg.errors import DataError

ROBUSTNESS = "robustness.csv"
STRENGTHS = {0: "clean", **LEVELS}
COLUMNS = ["run", "type", "severity", "score"]


def read_corrupted(
    paths: Sequence[Path], folders: Sequence[str], metric: str
) -> tuple[dict[str, pd.Series], tuple[str, ...]]:
    """Scores by what they are and by run, means over types for each severity, and these types.

    Of every `robustness.csv` in or below `paths` and in the runs' `folders`. A mean is over the
    types that all runs with such scores have at that severity, so that it is of the same
    corruptions for each. Empty where there are none. A file without the metric is passed over.
    Raises DataError for one that lacks another column or a number.
    """
    runs = {Path(folder).resolve(): folder for folder in folders}
    found = [_read(path, metric, runs) for path in _files(paths, runs)]
    if not found:
        return {}, ()
    rows = pd.concat(found).drop_duplicates(["run", "type", "severity"], keep="last")
    means, used = {}, set()
    for severity in sorted(set(rows["severity"])):
        some = rows[rows["severity"] == severity]
        shared = some.pivot(index="run", columns="type", values="score").dropna(axis="columns")
        used |= set(shared) if severity else set()
        if len(shared.columns):
            title = f"severity {severity} {STRENGTHS.get(severity, '')}".rstrip()
            means[title] = shared.agg(mean, axis="columns")
    return means, tuple(sorted(used))


def _read(path: Path, metric: str, runs: dict[Path, str]) -> pd.DataFrame:
    """run, type, severity and score of every row that is about one of the runs."""
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
        if metric not in found:
            return pd.DataFrame(columns=COLUMNS)
        kind = "corruption" if "corruption" in found else "type"
        found = found[["run", kind, "severity", metric]].set_axis(COLUMNS, axis="columns")
        found = found.astype({"severity": int, "score": float})
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"'{path}' is damaged: a row lacks a run, type, severity or {metric}. Delete it and "
            "repeat the command that wrote it."
        ) from error
    places = [(Path(name).resolve(), (path.parent / name).resolve()) for name in found["run"]]
    found["run"] = [runs.get(one) or runs.get(other) for one, other in places]
    return found.dropna(subset="run")


def _files(paths: Sequence[Path], runs: Collection[Path]) -> list[Path]:
    found = {}
    for path in paths:
        for folder, below, names in os.walk(path):
            below.sort()
            if Path(folder).resolve() in runs:
                below.clear()  # hundreds of masks
            if ROBUSTNESS in names:
                found.setdefault((Path(folder) / ROBUSTNESS).resolve(), Path(folder) / ROBUSTNESS)
    return list(found.values())
