"""The tables of a run: one row of results, scores and confusion of classes."""

import csv
import resource
import sys
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from ddpmseg.data.class_table import ClassTable
from ddpmseg.errors import DataError
from ddpmseg.io.csv_cells import guarded
from ddpmseg.io.damage import DAMAGE, checked_counts, explain_damage, reason_of
from ddpmseg.io.files import atomic_write
from ddpmseg.metrics.segmentation import Scores
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.folder_kind import RESULTS

PENDING = f".{RESULTS}.pending"
PER_CLASS = "per_class.csv"
CONFUSION = "confusion.csv"
COLUMNS = (
    "dataset",
    "backbone",
    "checkpoint_sha256",
    "blocks",
    "timesteps",
    "head",
    "head_sha256",
    "protocol",
    "members",
    "seed",
    "num_labelled",
    "num_test",
    "miou",
    "miou_present",
    "pixel_accuracy",
    "uncertainty",
    "seconds_extract",
    "seconds_train",
    "seconds_test",
    "pairs_computed",
    "pairs_read",
    "peak_rss_mb",
)


def read_results(folder: Path) -> dict[str, str]:
    """The row of a finished run's `results.csv`; DataError where it has none with its scores."""
    path = folder / RESULTS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        scores = [float(row[name]) for name in METRICS]
        if not all(0 <= score <= 1 or isnan(score) for score in scores):
            raise ValueError("a score is not within 0..1")
    except (StopIteration, *DAMAGE) as error:
        raise DataError(
            f"'{path}' is damaged: it lacks a row with a number for {', '.join(METRICS)} "
            f"({reason_of(error)}). Repeat the run with `paths.overwrite=true`."
        ) from error
    return row


def write_results(folder: Path, row: Mapping[str, object]) -> None:
    """Write a header and one row of `COLUMNS`: what `mark_finished` makes `results.csv`."""
    write_table(folder / PENDING, COLUMNS, [row])


def score_columns(scores: Scores, uncertainties: Sequence[Tensor]) -> dict[str, float]:
    """Those of a row: the scores, and the mean uncertainty of the test images.

    They are written with all of their digits, so that a reader has the same numbers.
    """
    return {
        "miou": float(scores.miou),
        "miou_present": float(scores.miou_present),
        "pixel_accuracy": float(scores.pixel_accuracy),
        "uncertainty": float(torch.cat(list(uncertainties)).mean()),
    }


def write_per_class(folder: Path, classes: ClassTable, scores: Scores) -> None:
    """Write `per_class.csv`: IoU of every class in both conventions, and its pixels.

    `iou` is empty for the ignore label, `iou_present` also for a class that occurs nowhere.
    """
    rows = [
        {
            "label": label,
            "class": name,
            "iou": _number(scores.iou[label].item()),
            "iou_present": _number(scores.iou_present[label].item()),
            "true_pixels": int(scores.confusion[label].sum()),
            "predicted_pixels": int(scores.confusion[:, label].sum()),
        }
        for label, name in enumerate(classes.names)
    ]
    write_table(folder / PER_CLASS, tuple(rows[0]), rows)
    table = [
        {"true": name, **dict(zip(classes.names, counts, strict=True))}
        for name, counts in zip(
            [*classes.names, "(ignored)"], scores.confusion.tolist(), strict=True
        )
    ]
    write_table(folder / CONFUSION, ("true", *classes.names), table)


def read_confusion(folder: Path, num_classes: int) -> Int64[Tensor, "k_plus_1 k"]:
    """Pixels by true label (last row: ignored) and predicted label, from `confusion.csv`.

    Raises DataError where it is damaged.
    """
    path = folder / CONFUSION
    with explain_damage(path, "Repeat the run with `paths.overwrite=true`.", DataError):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        counts = checked_counts([[int(number) for number in row[1:]] for row in rows])
        if len(counts[0]) != num_classes:
            raise ValueError(f"it counts {len(counts[0])} classes of {num_classes}")
        return torch.tensor(counts)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([guarded(name) for name in columns])
        writer.writerows([[guarded(row.get(name, "")) for name in columns] for row in rows])


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _number(value: float) -> float | str:
    return "" if value != value else value
