"""Finished runs of `ddpmseg train`, found below folders and read with all that decided them."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path

from ddpmseg.errors import ConfigError, DataError, UserError
from ddpmseg.finished.open import FinishedRun, open_run
from ddpmseg.io.damage import explain_damage
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.folder_kind import CONFIG, RECORD, RESULTS
from ddpmseg.records.published import Published
from ddpmseg.records.runs import METHOD, Run


def read_runs(
    paths: Sequence[Path], published: Published
) -> tuple[list[Run], list[tuple[Path, str]]]:
    """All finished runs in and below `paths`, and each folder left out with the reason.

    Left out are unfinished and damaged runs, what is no segmentation, runs of the same settings and
    seeds as one before, and runs of other weights or images than one before whose settings name
    the same. Raises ConfigError for a path that is no folder.
    """
    runs, left_out, contents = [], [], _Contents()
    for folder in _run_folders(paths):
        try:
            opened = open_run(folder, ("segment", "distill"))
            run = _read(opened, published)
            contents.check(opened)
            runs.append(run)
        except UserError as error:
            left_out.append((folder, str(error)))
    first: dict[str, Run] = {}
    for run in runs:
        # Counting a run twice would make the spread over seeds too small.
        earlier = first.setdefault(json.dumps(dict(run.settings), sort_keys=True), run)
        if earlier is not run:
            left_out.append((Path(run.folder), f"repeats the run in '{earlier.folder}'"))
    return list(first.values()), left_out


def _run_folders(paths: Iterable[Path]) -> list[Path]:
    """The folders in and below `paths` that hold what a run leaves; nothing below these."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"'{path}' is no folder. Name run folders, or folders above them.")
        for folder in _searched(path):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _searched(path: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(path):
        below.sort()
        if CONFIG in names or RESULTS in names:
            below.clear()  # loggers keep a config.yaml of their own inside
            yield Path(folder)


class _Contents:
    """What the files are that runs name by the same settings: a table must not mix their scores."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], tuple[str, Path]] = {}

    def check(self, run: FinishedRun) -> None:
        """Raise DataError if the run read something else under the same settings."""
        identity = run.identity
        for kind, group in (("weights", "backbone."), ("images", "dataset.")):
            digest = identity.digests.get(kind)
            if digest is None:
                continue  # of version 0.1, which did not record it
            named = {k: v for k, v in identity.settings.items() if k.startswith(group)}
            key = (kind, json.dumps([run.config.task, named], sort_keys=True))
            known, folder = self._first.setdefault(key, (digest, run.folder))
            if known != digest:
                raise DataError(
                    f"its {kind} are not those of '{folder}', though the settings are the same: "
                    "the files were changed between the two runs"
                )


def _read(run: FinishedRun, published: Published) -> Run:
    settings = dict(run.identity.settings)
    if run.config.task == "segment":
        # Of a single member no number depends on it; a table of several heads has a column for it.
        settings["head.vote"] = run.config.head.vote
    with explain_damage(run.folder / RECORD, "Repeat the run with `paths.overwrite=true`."):
        method = published.method_of(settings)
    return Run(str(run.folder), settings | {METHOD: method}, _scores(run.results))


def _scores(row: Mapping[str, str]) -> dict[str, float]:
    """Scores of the run as fractions; DataError where there are none yet."""
    scores = {name: float(row[name]) for name in METRICS}
    if any(map(isnan, scores.values())):
        raise DataError(
            "it has no scores yet: a Python program saved it before `score` gave it test images"
        )
    return scores
