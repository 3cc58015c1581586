"""IoU of every class under each of some settings, sorted by how much they differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ddpmseg.compare.ranking import Ranking
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.csv_cells import unguarded
from ddpmseg.io.damage import DAMAGE
from ddpmseg.records.run_table import values_of
from ddpmseg.records.runs import DATASET, Summary
from ddpmseg.tables.table import Row, Table

_IOU = {"miou": "iou", "miou_present": "iou_present"}
CLASS_METRICS = tuple(_IOU)
"""Metrics that are means of an IoU of every class."""


def read_class_scores(folder: Path, metric: str) -> pd.DataFrame:
    """Of `per_class.csv`, by class in label order; `metric` is one of `CLASS_METRICS`.

    iou: fractions, NaN of a class without one, such as the ignored. pixels: that the truth gives to
    each class. Raises DataError for a bad file.
    """
    path = folder / "per_class.csv"
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False, index_col="class")
        found.index = found.index.map(unguarded)
        iou = found[_IOU[metric]].replace("", "nan").astype(float)
        return pd.DataFrame({"iou": iou, "pixels": found["true_pixels"].astype(int)})
    except FileNotFoundError as error:
        raise DataError(
            f"'{path}' is not there. Leave out the run, or repeat it with paths.overwrite=true."
        ) from error
    except DAMAGE as error:
        raise DataError(
            f"'{path}' is damaged: it lacks a number of class, {_IOU[metric]} or true_pixels. "
            "Leave out the run, or repeat it with paths.overwrite=true."
        ) from error


def class_table(
    ranking: Ranking,
    scores: Mapping[str, pd.DataFrame],
    against: Sequence[pd.Series] = (),
    names: Mapping[str, str] | None = None,
) -> Table:
    """Classes down, settings across, from the largest difference to the most negative.

    The difference is of the first column to the last. The last column is the setting that `against`
    tells, else the lowest in rank; the others come by rank. `area` is the share of the test pixels
    in percent. The last row is the metric itself. scores: by a run's folder, as
    `read_class_scores` gives them; every run has the same classes. Raises DataError where it has
    not, and ConfigError for less than two settings.
    """
    means = ranking.summaries(ranking.runs[ranking.metric])
    ordered = _ordered(ranking, means, against)
    first, last = ordered[0], ordered[-1]
    _check_classes(ranking, scores)
    iou = pd.DataFrame({folder: table["iou"] for folder, table in scores.items()})
    pixels = scores[ranking.runs.index[ranking.runs["setting"] == first][0]]["pixels"]
    rows = []

    def row(name: str, area: Summary | None, of_runs: pd.Series) -> Row:
        found = ranking.summaries(of_runs)
        difference = ranking.differences(of_runs, {first: last}).get(first)
        return Row((name,), (area, *(found[one] for one in ordered), difference))

    for name in pixels.index[iou.reindex(pixels.index).notna().all(axis=1)]:
        area = Summary(100 * pixels[name] / (pixels.sum() or 1), None, None, 2)
        rows.append(row(name, area, iou.loc[name]))

    def size(row: Row) -> float:
        _, ours, *_, theirs, difference = row.cells
        if difference is not None:
            return -difference.mean
        assert ours is not None  # no seed is shared
        assert theirs is not None
        return theirs.mean - ours.mean

    rows.sort(key=size)
    rows.append(row(ranking.metric, None, ranking.runs[ranking.metric]))
    keys = [*ranking.group_by, *ranking.keys]
    titles = [ranking.describe(one, keys, names) for one in ordered]
    return Table(("class",), ("area", *titles, "difference"), tuple(rows))


def _ordered(
    ranking: Ranking, means: Mapping[int, Summary], against: Sequence[pd.Series]
) -> list[int]:
    """The settings by score, the reference last."""
    ordered = sorted(ranking.labels, key=lambda setting: -means[setting].mean)
    if len(ordered) < 2:
        raise ConfigError(
            "--per-class compares two or more settings, and there is one. Name further runs, or "
            "compare single runs with --per-run."
        )
    if against:
        fitting = set(ranking.references(against).values())
        if len(fitting) > 1:
            raise ConfigError(
                f"--against {' '.join(str(one.name) for one in against)} fits {len(fitting)} "
                "settings, one in each group. Choose a group with --where."
            )
        ordered.sort(key=lambda setting: setting in fitting)
    return ordered


def _check_classes(ranking: Ranking, scores: Mapping[str, pd.DataFrame]) -> None:
    """Raise DataError where runs do not have the same classes."""
    tables = {tuple(table.index) for table in scores.values()}
    datasets = values_of(ranking.runs, DATASET)
    if len(tables) > 1 or len(datasets) > 1:
        raise DataError(
            f"runs of {' and '.join(datasets)} do not have the same classes. Choose those of one "
            f"dataset, as with --where {DATASET}={datasets[0]}."
        )
