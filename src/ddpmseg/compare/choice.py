"""The runs that a comparison is about: found, filtered, and their settings by name."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddpmseg.errors import DataError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.records.keys import filtered, find_conditions, find_key, series
from ddpmseg.records.published import load_published
from ddpmseg.records.runs import Run


@dataclass(frozen=True)
class Choice:
    """Which runs: those in and below `paths` that have the settings `where`.

    where: 'key=value', either value for a key named again, or 'key!=value'. vary: only runs beside
    which there are others that differ in these settings, else in nothing but seeds and what is
    averaged `over`.
    """

    paths: Sequence[Path]
    where: Sequence[str] = ()
    vary: Sequence[str] = ()
    over: Sequence[str] = ()


def choose_runs(choice: Choice) -> list[Run]:
    """Read them; folders that are left out are named on stderr.

    Raises DataError where no run is finished or none is as chosen, ConfigError for unknown keys.
    """
    runs, left_out = read_runs(choice.paths, load_published())
    for folder, reason in left_out:
        sys.stderr.write(f"left out: '{folder}': {reason}\n")
    if not runs:
        raise DataError(
            f"there is no finished run of ddpmseg train in {', '.join(map(str, choice.paths))}; "
            f"{len(left_out)} folders were left out."
        )
    conditions = find_conditions(choice.where, runs)
    varied, over = ([find_key(name, runs) for name in some] for some in (choice.vary, choice.over))
    chosen = filtered(runs, conditions)
    return series(chosen, varied, over) if varied else chosen
