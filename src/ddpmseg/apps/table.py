"""Runs over seeds as a table beside the published numbers, or by the values of settings."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from ddpmseg.analysis.ablation import save_ablation
from ddpmseg.analysis.markup import FORMATS
from ddpmseg.analysis.published import load_published
from ddpmseg.analysis.runs import DATASET, Run
from ddpmseg.analysis.tables import Table, cross_table, paper_table
from ddpmseg.apps.runs import read_runs
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.files import written_whole

log = logging.getLogger(__name__)
FIGURES = (".png", ".svg")


def table(
    paths: Sequence[Path],
    metric: str = "miou",
    by: Sequence[str] = (),
    line: str | None = None,
    over: Sequence[str] = (),
    style: str = "md",
    output: Path | None = None,
    figure: Path | None = None,
) -> Table:
    """Read the runs in and below `paths`; write their table to `output` or stdout, and the figure.

    by: the setting whose values are rows, and optionally the one whose values are columns; without
    any, methods by datasets as in the paper. line: as the second of `by`. over: settings to average
    over besides the seeds. style: a key of `FORMATS`. Folders that are left out are named on
    stderr. Raises ConfigError for arguments that do not fit each other or the runs, DataError where
    no run is finished.
    """
    by = [*by, *([line] if line else [])]
    _check(by, figure)
    published = load_published()
    runs, left_out = read_runs(paths, published)
    for folder, reason in left_out:
        sys.stderr.write(f"left out: '{folder}': {reason}\n")
    if not runs:
        raise DataError(
            f"there is no finished run of train.py in {', '.join(map(str, paths))}; "
            f"{len(left_out)} folders were left out."
        )
    for key in (*by, *over):
        _check_known(key, runs)
    if by:
        made = cross_table(runs, metric, by[0], by[1] if len(by) > 1 else DATASET, over)
    else:
        made = paper_table(runs, metric, published, over)
    text = FORMATS[style](made)
    if output is None:
        sys.stdout.write(text)
    else:
        with _place_of(output), written_whole(output) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        log.info("%d runs in %s", len(runs), output)
    if figure is not None:
        with _place_of(figure):
            save_ablation(made, metric, figure)
    return made


@contextmanager
def _place_of(path: Path) -> Iterator[None]:
    """Make the folder of a file that the block writes; ConfigError where one of them fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be written ({error.strerror}). Name another file."
        ) from error


def _check(by: Sequence[str], figure: Path | None) -> None:
    if len(by) > 2 or len(set(by)) < len(by):
        raise ConfigError(
            f"a table has rows and columns, by two different settings at most; got "
            f"{', '.join(by)} (--line is the second --by)."
        )
    if figure is None:
        return
    if not by:
        raise ConfigError("--figure draws a score over a setting: name it with --by.")
    if figure.suffix not in FIGURES:
        raise ConfigError(f"--figure {figure}: the name must end in {' or '.join(FIGURES)}.")


def _check_known(key: str, runs: Sequence[Run]) -> None:
    known = sorted({key for run in runs for key in run.settings})
    if key not in known:
        close = get_close_matches(key, known, n=3) or [k for k in known if k.endswith(f".{key}")]
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            f"no run has the setting '{key}' among those that decide a result.{hint} Settings are "
            "the dotted keys of a run's config.yaml, as in head.members."
        )
