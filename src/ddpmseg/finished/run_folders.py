"""Finished runs of `ddpmseg train`, found below folders and read with all that decided them."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path

from omegaconf import OmegaConf

from ddpmseg.config import run_request
from ddpmseg.errors import ConfigError, DataError, UserError
from ddpmseg.finished.open import open_run
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.published import Published
from ddpmseg.records.results import CONFIG, RESULTS
from ddpmseg.records.runs import METHOD, Run


def read_runs(
    paths: Sequence[Path], published: Published
) -> tuple[list[Run], list[tuple[Path, str]]]:
    """All finished runs in and below `paths`, and each folder left out with the reason.

    Left out are unfinished and damaged runs, what is no segmentation, and runs of the same settings
    and seeds as one before. Raises ConfigError for a path that is no folder.
    """
    runs, left_out = [], []
    for folder in _run_folders(paths):
        try:
            runs.append(_read(folder, published))
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


def _read(folder: Path, published: Published) -> Run:
    run = open_run(folder, ("segment", "distill"))
    settings = run_request(OmegaConf.structured(run.config))
    scores = _scores(run.results)
    return Run(str(folder), settings | {METHOD: published.method_of(settings)}, scores)


def _scores(row: Mapping[str, str]) -> dict[str, float]:
    """Scores of the run as fractions; DataError where one is missing."""
    try:
        scores = {name: float(row[name]) for name in METRICS}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"damaged: {RESULTS} lacks one of the numbers {', '.join(METRICS)}"
        ) from error
    if any(map(isnan, scores.values())):
        raise DataError(
            "it has no scores yet: a Python program saved it before `score` gave it test images"
        )
    if not all(0 <= score <= 1 for score in scores.values()):
        raise DataError(f"damaged: a score in {RESULTS} is not within 0..1")
    return scores
