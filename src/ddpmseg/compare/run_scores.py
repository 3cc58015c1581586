"""What a run leaves besides its scores: IoU of every class, scores on corrupted images."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

from ddpmseg.compare.per_class import ClassScores
from ddpmseg.errors import DataError
from ddpmseg.records.runs import Run

ROBUSTNESS = "robustness.csv"
STRENGTHS = {0: "clean", 1: "weak", 3: "medium", 5: "strong"}
"""What the paper calls the severities that it tests; at 0 the images are as they were."""
_IOU = {"miou": "iou", "miou_present": "iou_present"}
CLASS_METRICS = tuple(_IOU)
"""Metrics that are means of an IoU of every class."""

Corrupted = Mapping[str, Mapping[str, float]]
"""Scores by what they are and by the folder of their run."""


def read_class_scores(run: Run, metric: str) -> ClassScores:
    """Of `per_class.csv`; `metric` is one of `CLASS_METRICS`. Raises DataError for a bad file."""
    path = Path(run.folder) / "per_class.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return ClassScores(
            {row["class"]: float(row[_IOU[metric]]) for row in rows if row[_IOU[metric]]},
            {row["class"]: int(row["true_pixels"]) for row in rows},
        )
    except FileNotFoundError as error:
        raise DataError(
            f"'{path}' is not there. Leave out the run, or repeat it with paths.overwrite=true."
        ) from error
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"'{path}' is damaged: it lacks a number of class, {_IOU[metric]} or true_pixels. "
            "Leave out the run, or repeat it with paths.overwrite=true."
        ) from error


def read_corrupted(
    paths: Sequence[Path], runs: Sequence[Run], metric: str
) -> tuple[Corrupted, tuple[str, ...]]:
    """Scores on corrupted test images, a mean over types for each severity, and these types.

    Of every `robustness.csv` in or below `paths` and in the runs' folders. A mean is over the types
    that all runs with such scores have at that severity, so that it is of the same corruptions for
    each. Empty where there are none. A file without the metric is passed over. Raises DataError for
    one that lacks another column or a number.
    """
    folders = {_name(run.folder): run.folder for run in runs}
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for path in _robustness_files(paths, runs):
        for name, kind, severity, score in _corrupted_rows(path, metric):
            folder = folders.get(_name(name)) or folders.get(_name(path.parent / name))
            if folder is not None:
                found[severity][folder][kind] = score
    means: dict[str, dict[str, float]] = {}
    used: set[str] = set()
    for severity, by_run in sorted(found.items()):
        shared = set.intersection(*(set(scores) for scores in by_run.values()))
        used |= shared if severity else set()
        title = " ".join(["severity", str(severity), STRENGTHS.get(severity, "")]).rstrip()
        if shared:
            means[title] = {
                folder: mean(scores[kind] for kind in sorted(shared))
                for folder, scores in by_run.items()
            }
    return means, tuple(sorted(used))


def _corrupted_rows(path: Path, metric: str) -> Iterator[tuple[str, str, int, float]]:
    """(run, type, severity, score as a fraction) of every row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            kind = "corruption" if "corruption" in (reader.fieldnames or ()) else "type"
            for row in reader if metric in (reader.fieldnames or ()) else ():
                yield row["run"], row[kind], int(row["severity"]), float(row[metric])
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"'{path}' is damaged: a row lacks a run, type, severity or {metric}. Delete it and "
            "repeat the command that wrote it."
        ) from error


def _robustness_files(paths: Sequence[Path], runs: Sequence[Run]) -> list[Path]:
    inside = {Path(run.folder).resolve() for run in runs}
    found = {}
    for path in paths:
        for folder, below, names in os.walk(path):
            below.sort()
            if Path(folder).resolve() in inside:
                below.clear()  # hundreds of masks
            if ROBUSTNESS in names:
                found.setdefault((Path(folder) / ROBUSTNESS).resolve(), Path(folder) / ROBUSTNESS)
    return list(found.values())


def _name(folder: str | Path) -> Path:
    return Path(folder).resolve()
