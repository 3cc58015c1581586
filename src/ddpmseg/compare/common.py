"""What `compare` and `table` share: the runs they are about, and where their result goes."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ddpmseg.compare.settings import filtered, find_conditions, find_key, series
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.io.files import atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.io.stdout import write_out
from ddpmseg.records.published import load_published
from ddpmseg.records.run_table import run_table
from ddpmseg.records.runs import DATASET
from ddpmseg.tables.table import FORMATS, Table
from ddpmseg.tables.terminal import as_text

log = logging.getLogger(__name__)
OTHER_IMAGES = (DATASET, "dataset.classes")
"""Settings of which no score is a mean: their scores are of other test images or classes."""
FIGURES = (".png", ".svg")
STYLES: dict[str, Callable[[Table], str]] = {"text": as_text, **FORMATS}


def choose_runs(
    paths: Sequence[Path],
    where: Sequence[str] = (),
    vary: Sequence[str] = (),
    over: Sequence[str] = (),
) -> pd.DataFrame:
    """The table of the runs in and below `paths`; folders that are left out are named on stderr.

    where: 'key=value', either value for a key named again, or 'key!=value'. vary: only runs beside
    which there are others that differ in these settings, else in nothing but seeds and what is
    averaged `over`. Raises DataError where no run is finished or none is as chosen, ConfigError for
    unknown keys, and for a dataset to be averaged over.
    """
    found, left_out = read_runs(paths, load_published())
    for folder, reason in left_out:
        sys.stderr.write(f"left out: '{folder}': {reason}\n")
    if not found:
        raise DataError(
            f"there is no finished run of ddpmseg train in {', '.join(map(str, paths))}; "
            f"{len(left_out)} folders were left out."
        )
    runs = run_table(found)
    conditions = find_conditions(where, runs)
    varied, over = ([find_key(name, runs) for name in names] for names in (vary, over))
    for key in over:
        if key in OTHER_IMAGES:
            raise ConfigError(f"scores of different datasets have no mean: leave out --over {key}.")
    chosen = filtered(runs, conditions)
    return series(chosen, varied, over) if varied else chosen


def deliver(text: str, output: Path | None, what: str) -> None:
    """Write `text` to `output`, and say `what` it holds, or to stdout."""
    if output is None:
        write_out(text)
        return
    make_folder_of(output)
    with atomic_write(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    log.info("%s in %s", what, output)


def make_folder_of(path: Path) -> None:
    """Make the folder of a file; DiskError if that fails.

    What a process that was killed left of the file goes.
    """
    with explain_unwritable(path, "another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent, path.name)


def check_figure(figure: Path | None) -> None:
    """ConfigError for a name with another suffix than `FIGURES`."""
    if figure is not None and figure.suffix not in FIGURES:
        raise ConfigError(f"--figure {figure}: the name must end in {' or '.join(FIGURES)}.")
