"""Runs over seeds as a table beside the published numbers, or by the values of settings."""

from collections.abc import Sequence
from pathlib import Path

from ddpmseg.compare.ablation import save_ablation
from ddpmseg.compare.choice import Choice, choose_runs
from ddpmseg.errors import ConfigError
from ddpmseg.records.keys import find_key
from ddpmseg.records.published import load_published
from ddpmseg.records.runs import DATASET
from ddpmseg.tables.output import STYLES, check_figure, deliver, place_of
from ddpmseg.tables.table import Table, cross_table, paper_table


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
    over besides the seeds. where, vary: as in `Choice`. style: a key of `STYLES`. Folders that are
    left out are named on stderr. Raises ConfigError for arguments that do not fit each other or the
    runs, DataError where no run is finished.
    """
    by = [*by, *([line] if line else [])]
    _check(by, figure)
    runs = choose_runs(Choice(paths, where, vary, over))
    by, over = ([find_key(name, runs) for name in names] for names in (by, over))
    _check(by, figure)  # two names may mean one setting
    if by:
        made = cross_table(runs, metric, by[0], by[1] if len(by) > 1 else DATASET, over)
    else:
        made = paper_table(runs, metric, load_published(), over)
    deliver(STYLES[style](made), output, f"{len(runs)} runs")
    if figure is not None:
        with place_of(figure):
            save_ablation(made, metric, figure)
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
