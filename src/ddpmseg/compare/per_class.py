"""IoU of every class under each of some settings, sorted by how much they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ddpmseg.compare.ranking import Ranking, Setting, reference_of
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.keys import Condition
from ddpmseg.records.runs import DATASET, Summary
from ddpmseg.tables.table import Row, Table


@dataclass(frozen=True)
class ClassScores:
    """What a run says about its classes, by name in label order.

    iou: fractions; a class without one, such as the ignored, is left out. pixels: that the truth
    gives to each class.
    """

    iou: Mapping[str, float]
    pixels: Mapping[str, int]


def class_table(
    ranking: Ranking,
    scores: Mapping[str, ClassScores],
    against: Sequence[Condition] = (),
    names: Mapping[str, str] | None = None,
) -> Table:
    """Classes down, settings across, from the largest difference to the most negative.

    The difference is of the first column to the last. The last column is the setting that `against`
    tells, else the lowest in rank; the others come by rank. `area` is the share of the test pixels
    in percent. The last row is the metric itself. scores: by a run's folder; every run has the same
    classes. Raises DataError where it has not, and ConfigError for less than two settings.
    """
    ordered = _ordered(ranking, against)
    first, last = ordered[0], ordered[-1]
    classes = _shared_classes(ranking, scores)
    pixels = scores[first.runs[0].folder].pixels
    every = sum(pixels.values()) or 1
    rows = []
    for name in classes:
        area = Summary(100 * pixels[name] / every, None, None, 2)
        some = [_with_class(setting, name, scores) for setting in ordered]
        cells = [ranking.summary([run.scores[name] for run in one.runs]) for one in some]
        rows.append(Row((name,), (area, *cells, ranking.difference(some[0], some[-1], name))))

    def size(row: Row) -> float:
        difference = row.cells[-1]
        if difference is None:  # no seed is shared
            ours, theirs = row.cells[1], row.cells[-2]
            assert ours is not None
            assert theirs is not None
            return theirs.mean - ours.mean
        return -difference.mean

    rows.sort(key=size)
    metric = ranking.metric
    whole = [ranking.summary([run.scores[metric] for run in one.runs]) for one in ordered]
    rows.append(Row((metric,), (None, *whole, ranking.difference(first, last, metric))))
    titles = [one.describe(ranking.group_by, names or {}) for one in ordered]
    return Table(("class",), ("area", *titles, "difference"), tuple(rows))


def _ordered(ranking: Ranking, against: Sequence[Condition]) -> list[Setting]:
    """By score, the reference last."""
    ordered = sorted(ranking.settings, key=lambda setting: -setting.mean(ranking.metric))
    if len(ordered) < 2:
        raise ConfigError(
            "--per-class compares two or more settings, and there is one. Name further runs, or "
            "compare single runs with --per-run."
        )
    if against:
        fitting = {id(one): one for s in ordered if (one := reference_of(s, ranking, against))}
        if len(fitting) > 1:
            raise ConfigError(
                f"--against {' '.join(map(str, against))} fits {len(fitting)} settings, one in "
                "each group. Choose a group with --where."
            )
        for one in fitting.values():
            ordered = [setting for setting in ordered if setting is not one] + [one]
    return ordered


def _shared_classes(ranking: Ranking, scores: Mapping[str, ClassScores]) -> list[str]:
    """Classes that have an IoU in every run. Raises DataError where the runs have others."""
    runs = [run for setting in ranking.settings for run in setting.runs]
    tables = {tuple(scores[run.folder].pixels) for run in runs}
    datasets = sorted({run.text(DATASET) for run in runs})
    if len(tables) > 1 or len(datasets) > 1:
        raise DataError(
            f"runs of {' and '.join(datasets)} do not have the same classes. Choose those of one "
            f"dataset, as with --where {DATASET}={datasets[0]}."
        )
    return [name for name in tables.pop() if all(name in scores[run.folder].iou for run in runs)]


def _with_class(setting: Setting, name: str, scores: Mapping[str, ClassScores]) -> Setting:
    """The same with the IoU of a class as the score of every run."""
    runs = [replace(run, scores={name: scores[run.folder].iou[name]}) for run in setting.runs]
    return replace(setting, runs=tuple(runs))
