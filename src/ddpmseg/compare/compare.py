"""Any runs side by side: what differs, which is best, by how much over shared seeds, where."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ddpmseg.compare.common import STYLES, check_figure, choose_runs, deliver, make_folder_of
from ddpmseg.compare.corrupted import read_corrupted
from ddpmseg.compare.dots import dots, of_classes, of_ranking
from ddpmseg.compare.per_class import CLASS_METRICS, class_table, read_class_scores
from ddpmseg.compare.ranking import RANK, Ranking, rank, ranking_table
from ddpmseg.compare.settings import find_conditions, find_key, short_keys
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.run_table import settings_of
from ddpmseg.records.runs import DATASET, REPEATS
from ddpmseg.report.canvas import save_figure
from ddpmseg.tables.table import Table

HOW_TRAINED = ("num_labelled", "subset_seed", "tiny_annotations", "train_images", "train_masks")
"""Settings of a dataset that leave the test images as they are."""


def compare(
    paths: Sequence[Path],
    metric: str = "miou",
    where: Sequence[str] = (),
    vary: Sequence[str] = (),
    over: Sequence[str] = (),
    group_by: Sequence[str] = (),
    against: Sequence[str] = (),
    sort: str | None = None,
    best: bool = False,
    per_run: bool = False,
    per_class: bool = False,
    style: str = "text",
    output: Path | None = None,
    figure: Path | None = None,
) -> Table:
    """Rank the settings of the runs in and below `paths`; write the table, and the figure.

    A setting is all runs that differ in nothing but seeds, and what is averaged `over`; it is
    ranked among those that share the values of `group_by`, and never with another dataset's.
    Differences are of runs of the same seeds, to the best of the group or the setting `against`.
    where, vary: as for `choose_runs`. sort: a setting by whose values rows are put in order,
    instead of the best first. best: only the first of each group. per_run: every run by itself.
    per_class: classes down, settings across. style: a key of `STYLES`. Raises ConfigError for
    arguments that do not fit each other or the runs, DataError for runs that cannot be compared.
    """
    check_figure(figure)
    _check(metric, over, best, per_run, per_class, sort)
    runs = choose_runs(paths, where, vary, over)
    reference = find_conditions(against, runs)
    over = [find_key(name, runs) for name in over]
    group_by = list(dict.fromkeys(find_key(name, runs) for name in group_by))
    if runs[DATASET].nunique() > 1 and DATASET not in group_by:
        group_by = [DATASET, *group_by]
    by = None if sort is None else find_key(sort, runs)
    ranking = rank(runs, metric, group_by, over, by, per_run)
    if reference and not ranking.references(reference):
        raise DataError(f"no setting has {' and '.join(_names(reference))} (--against).")
    _warn(ranking)
    short = short_keys(settings_of(runs))
    names = short if style == "text" else {}
    if per_class:
        scores = {folder: read_class_scores(Path(folder), metric) for folder in runs.index}
        made = class_table(ranking, scores, reference, names)
        notes = []
    else:
        made, notes = _ranked(ranking, paths, runs, reference, names, best)
    text = STYLES[style](made)
    if style == "text":
        notes = [*_legend(ranking, reference, per_class, names), *notes]
        text += "\n" + "".join(f"{note}.\n" for note in notes)
    deliver(text, output, f"{len(runs)} runs")
    if figure is not None:
        shown = {n: texts for n, texts in ranking.labels.items() if texts[RANK] == "1" or not best}
        drawn = replace(ranking, labels=shown)
        plot = of_classes(made, metric) if per_class else of_ranking(drawn, short)
        make_folder_of(figure)
        save_figure(dots(plot), figure)
    return made


def _check(
    metric: str,
    over: Sequence[str],
    best: bool,
    per_run: bool,
    per_class: bool,
    sort: str | None,
) -> None:
    if per_class and metric not in CLASS_METRICS:
        raise ConfigError(
            f"--per-class: {metric} is no mean over classes. Use --metric "
            f"{' or '.join(CLASS_METRICS)}."
        )
    if per_class and (best or sort):
        option = "--best" if best else "--sort"
        raise ConfigError(
            f"--per-class has a row for every class: {option} does not apply. Choose settings "
            "with --where."
        )
    if per_run and over:
        raise ConfigError("--per-run averages nothing: leave out --over.")


def _ranked(
    ranking: Ranking,
    paths: Sequence[Path],
    runs: pd.DataFrame,
    against: Sequence[pd.Series],
    names: dict[str, str],
    best: bool,
) -> tuple[Table, list[str]]:
    """The table of settings, and sentences about its columns."""
    corrupted, kinds = read_corrupted(paths, list(runs.index), ranking.metric)
    folders = _folders(list(runs.index), bool(names)) if ranking.pairs is None else None
    made = ranking_table(ranking, CLASS_METRICS, against, corrupted, folders, names)
    if best:
        first = len(ranking.group_by)
        made = replace(made, rows=tuple(row for row in made.rows if row.labels[first] == "1"))
    notes = [f"severity: mean over {len(kinds)} types of corruption"] if corrupted else []
    return made, notes


def _folders(folders: Sequence[str], short: bool) -> dict[str, str]:
    """Each run's folder as it is shown: `short` without what all have in common."""
    if not short:
        return {folder: folder for folder in folders}
    common = os.path.commonpath([Path(folder).absolute().parent for folder in folders])
    return {folder: os.path.relpath(Path(folder).absolute(), common) for folder in folders}


def _legend(
    ranking: Ranking, against: Sequence[pd.Series], per_class: bool, names: Mapping[str, str]
) -> list[str]:
    """What the numbers are, in a sentence each."""
    spread = ", mean ± standard deviation (runs)" if ranking.counted else ""
    if per_class:
        to = "of the first setting to the last"
    else:
        among = "the best of its group" if ranking.group_by else "the best"
        to = "to " + (" ".join(_names(against)) or among)
    seeds = ""
    if ranking.pairs is not None:
        shared = [names.get(key, key) for key in ranking.pairs[len(REPEATS) :]]
        seeds = ", of runs with " + " and ".join(["the same seeds", *shared])
    legend = [f"{ranking.metric} in percent{spread}", f"difference: {to}{seeds}"]
    return [*legend, *(["area: share of the test pixels, in percent"] if per_class else [])]


def _warn(ranking: Ranking) -> None:
    """Say on stderr which settings of the same dataset were tested on other images."""
    tested = [
        key
        for key in (*ranking.keys, *ranking.group_by)
        if key.startswith("dataset.")
        and key not in {DATASET, "dataset.split_seed"}
        and key.removeprefix("dataset.") not in HOW_TRAINED
    ]
    if tested:
        sys.stderr.write(
            f"note: runs differ in {', '.join(tested)}: their test images are not the same, and "
            "scores differ for that reason too.\n"
        )


def _names(conditions: Sequence[pd.Series]) -> list[str]:
    return [str(condition.name) for condition in conditions]
