"""Any runs side by side: what differs, which is best, by how much over shared seeds, where."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ddpmseg.compare.choice import Choice, choose_runs
from ddpmseg.compare.dots import of_classes, of_ranking, save_dots
from ddpmseg.compare.per_class import class_table
from ddpmseg.compare.ranking import Ranking, rank, ranking_table, reference_of
from ddpmseg.compare.run_scores import CLASS_METRICS, read_class_scores, read_corrupted
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.keys import Condition, find_conditions, find_key, known_keys, short_keys
from ddpmseg.records.runs import DATASET, REPEATS, Run
from ddpmseg.tables.output import STYLES, check_figure, deliver, place_of
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
    where, vary: as in `Choice`. sort: a setting by whose values rows are put in order, instead of
    the best first. best: only the first of each group. per_run: every run by itself. per_class:
    classes down, settings across. style: a key of `STYLES`. Raises ConfigError for arguments that
    do not fit each other or the runs, DataError for runs that cannot be compared.
    """
    check_figure(figure)
    _check(metric, over, best, per_run, per_class, sort)
    runs = choose_runs(Choice(paths, where, vary, over))
    reference = find_conditions(against, runs)
    over = [find_key(name, runs) for name in over]
    group_by = list(dict.fromkeys(find_key(name, runs) for name in group_by))
    if len({run.text(DATASET) for run in runs}) > 1 and DATASET not in group_by:
        group_by = [DATASET, *group_by]
    if DATASET in group_by and DATASET in over:
        raise ConfigError(f"scores of different datasets have no mean: leave out --over {DATASET}.")
    by = None if sort is None else find_key(sort, runs)
    ranking = rank(runs, metric, group_by, over, by, per_run)
    if reference and not any(reference_of(one, ranking, reference) for one in ranking.settings):
        raise DataError(f"no setting has {' and '.join(map(str, reference))} (--against).")
    _warn(ranking)
    short = short_keys(known_keys(runs))
    names = short if style == "text" else {}
    if per_class:
        scores = {run.folder: read_class_scores(run, metric) for run in runs}
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
        shown = [setting for setting in ranking.settings if setting.rank == 1 or not best]
        drawn = replace(ranking, settings=tuple(shown))
        plot = of_classes(made, metric) if per_class else of_ranking(drawn, short)
        with place_of(figure):
            save_dots(plot, figure)
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
    runs: Sequence[Run],
    against: Sequence[Condition],
    names: dict[str, str],
    best: bool,
) -> tuple[Table, list[str]]:
    """The table of settings, and sentences about its columns."""
    corrupted, kinds = read_corrupted(paths, runs, ranking.metric)
    folders = _folders(runs, bool(names)) if ranking.pairs is None else None
    made = ranking_table(ranking, CLASS_METRICS, against, corrupted, folders, names)
    if best:
        pairs = zip(made.rows, ranking.settings, strict=True)
        made = replace(made, rows=tuple(row for row, setting in pairs if setting.rank == 1))
    notes = [f"severity: mean over {len(kinds)} types of corruption"] if corrupted else []
    return made, notes


def _folders(runs: Sequence[Run], short: bool) -> dict[str, str]:
    """Each run's folder as it is shown: `short` without what all have in common."""
    folders = [run.folder for run in runs]
    if not short:
        return {folder: folder for folder in folders}
    common = os.path.commonpath([Path(folder).absolute().parent for folder in folders])
    return {folder: os.path.relpath(Path(folder).absolute(), common) for folder in folders}


def _legend(
    ranking: Ranking, against: Sequence[Condition], per_class: bool, names: Mapping[str, str]
) -> list[str]:
    """What the numbers are, in a sentence each."""
    spread = ", mean ± standard deviation (runs)" if ranking.counted else ""
    if per_class:
        to = "of the first setting to the last"
    else:
        among = "the best of its group" if ranking.group_by else "the best"
        to = "to " + (" ".join(map(str, against)) or among)
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
