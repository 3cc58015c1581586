"""Runs over seeds as a table beside the published numbers, or by the values of settings."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddpmseg.compare.ablation import ablation
from ddpmseg.compare.common import STYLES, check_figure, choose_runs, deliver, make_folder_of
from ddpmseg.compare.settings import find_key
from ddpmseg.errors import ConfigError
from ddpmseg.records.published import Published, load_published
from ddpmseg.records.run_table import describe, values_of, variants
from ddpmseg.records.runs import DATASET, METHOD, Summary
from ddpmseg.report.canvas import save_figure
from ddpmseg.tables.table import Row, Table


def table(
    paths: Sequence[Path],
    metric: str = "miou",
    by: Sequence[str] = (),
    line: str | None = None,
    over: Sequence[str] = (),
    where: Sequence[str] = (),
    vary: Sequence[str] = (),
    style: str = "md",
    output: Path | None = None,
    figure: Path | None = None,
) -> Table:
    """Read the runs in and below `paths`; write their table to `output` or stdout, and the figure.

    by: the setting whose values are rows, and optionally the one whose values are columns; without
    any, methods by datasets as in the paper. line: as the second of `by`. over: settings to average
    over besides the seeds. where, vary: as for `choose_runs`. style: a key of `STYLES`. Folders
    that are left out are named on stderr. Raises ConfigError for arguments that do not fit each
    other or the runs, DataError where no run is finished.
    """
    by = [*by, *([line] if line else [])]
    _check(by, figure)
    runs = choose_runs(paths, where, vary, over)
    by, over = ([find_key(name, runs) for name in names] for names in (by, over))
    _check(by, figure)  # two names may mean one setting
    if by:
        made = cross_table(runs, metric, by[0], by[1] if len(by) > 1 else DATASET, over)
    else:
        made = paper_table(runs, metric, load_published(), over)
    deliver(STYLES[style](made), output, f"{len(runs)} runs")
    if figure is not None:
        make_folder_of(figure)
        save_figure(ablation(made, metric), figure)
    return made


def _check(by: Sequence[str], figure: Path | None) -> None:
    if len(by) > 2 or len(set(by)) < len(by):
        raise ConfigError(
            f"a table has rows and columns, by two different settings at most; got "
            f"{', '.join(by)} (--line is the second --by)."
        )
    if figure is not None and not by:
        raise ConfigError("--figure draws a score over a setting: name it with --by.")
    check_figure(figure)


def paper_table(
    runs: pd.DataFrame, metric: str, published: Published, over: Sequence[str] = ()
) -> Table:
    """Our runs in the paper's main table: methods down, datasets across.

    A method has a row of published numbers, one for each who reproduced them, and one of ours for
    every set of settings under which there are runs. Quoted numbers are `miou`; with another metric
    only ours are there. Methods and datasets that are not the paper's come last, sorted by name.
    """
    datasets = [*published.datasets, *sorted(set(runs[DATASET]) - set(published.datasets))]
    named = {method.name: method for method in published.methods}
    groups = variants(runs, (METHOD, DATASET, *over))
    rows = []
    for name in [*named, *sorted(set(runs[METHOD]) - set(named))]:
        if name in named and metric == "miou":
            quoted = [("published", named[name].published), *named[name].reproduced]
            rows += [
                Row((name, source), tuple(numbers.get(dataset) for dataset in datasets))
                for source, numbers in quoted
            ]
        for variant, group in groups.items():
            ours = group[group[METHOD] == name]
            if len(ours):
                count = f"ours ({len(ours)} run{'s' * (len(ours) > 1)})"
                label = ": ".join([count, describe(variant)] if variant else [count])
                rows.append(Row((name, label), _summaries(ours, DATASET, datasets, metric)))
    titles = tuple(published.datasets.get(dataset, dataset) for dataset in datasets)
    return Table((METHOD, "result"), titles, tuple(rows))


def cross_table(
    runs: pd.DataFrame, metric: str, rows: str, columns: str, over: Sequence[str] = ()
) -> Table:
    """Means by the values of two settings: those of `rows` down, those of `columns` across.

    Runs that differ in anything else, but for seeds and what is averaged `over`, are kept apart: a
    further column then names what tells them from each other.
    """
    groups = variants(runs, (rows, columns, *over))
    across = values_of(runs, columns)
    found = []
    for variant, group in groups.items():
        for value in values_of(group, rows):
            some = group[group[rows] == value]
            labels = (describe(variant), value) if len(groups) > 1 else (value,)
            found.append(Row(labels, _summaries(some, columns, across, metric)))
    stub = ("settings", rows) if len(groups) > 1 else (rows,)
    titles = across if columns == DATASET else [f"{columns}={value}" for value in across]
    return Table(stub, tuple(titles), tuple(found))


def _summaries(
    runs: pd.DataFrame, key: str, values: Sequence[str], metric: str
) -> tuple[Summary | None, ...]:
    """Mean and spread for each value of a setting; None for one that no run has."""
    scores = dict(iter(runs.groupby(key, observed=True)[metric]))
    return tuple(Summary.of(list(scores[value])) if value in scores else None for value in values)
