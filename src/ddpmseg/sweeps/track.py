"""The W&B runs of a sweep: one for the grid, on request one for every cell."""

import csv
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ddpmseg.config import SweepConfig, TrainConfig, request_key
from ddpmseg.records.cells import CellStore
from ddpmseg.report.study import Study
from ddpmseg.sweeps.wandb_sweep import log_cell, log_study
from ddpmseg.tracking.upload import Upload
from ddpmseg.tracking.wandb_media import DATASET, MODEL, log_reference
from ddpmseg.tracking.wandb_run import (
    Identity,
    cell_identity,
    multirun_identity,
    open_run,
    recorded_runs,
    sweep_identity,
)

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)
SECONDS_PER_CELL = 1.0
"""Added to `logger.timeout` for every cell that is uploaded."""


@contextmanager
def sweep_run(config: SweepConfig) -> "Iterator[Run | None]":
    """The run that shows the sweep in `paths.output_dir`; None where W&B is not asked for."""
    if not config.logger.wandb:
        yield None
        return
    with open_run(config.logger, Path(config.paths.output_dir), _identity(config)) as run:
        yield run


def log_sweep(run: "Run", config: SweepConfig, study: Study) -> None:
    """What the report of a sweep shows, and by their digests what it was made of."""
    folder = Path(config.paths.output_dir)
    log_study(run, study, folder)
    if not config.logger.artifacts:
        return
    digests = CellStore(folder).identity().digests
    if digests.get("images"):
        log_reference(run, DATASET, f"dataset-{study.dataset}", digests["images"])
    if digests.get("weights"):
        log_reference(run, MODEL, f"weights-{study.backbone}", digests["weights"])


def log_multirun(config: TrainConfig, study: Study, place: Path, folder: Path) -> None:
    """A run that shows the study in `place` of jobs of ddpmseg train, if they have runs themselves.

    `folder` is that of the multirun, `config` the configuration of a job.
    """
    if not config.logger.wandb:
        return
    name = folder.name if place == folder else f"{folder.name}-{place.name}"
    with open_run(config.logger, place, multirun_identity(config, name)) as run:
        log_study(run, study, place, folder / "jobs.csv")


def record_cells(config: SweepConfig) -> None:
    """With `logger.runs=cell`, a run for every finished cell that has none yet.

    They are uploaded together, unless the server did not take the run of the sweep either.
    """
    settings, folder = config.logger, Path(config.paths.output_dir)
    if not settings.wandb or settings.runs != "cell" or settings.mode == "disabled":
        return
    sweep, new = _identity(config), []
    with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        block, timestep, seed = (int(row[key]) for key in ("block", "timestep", "seed"))
        identity = cell_identity(config, sweep, (block, timestep, seed))
        if any((folder / "wandb").glob(f"offline-run-*-{identity.id}")):
            continue
        with open_run(settings, folder, identity, upload=False, quick=True) as run:
            log_cell(run, row)
        new += recorded_runs(folder, identity.id)
    log.info("W&B: %d runs of cells recorded in %s", len(new), folder / "wandb")
    if new and settings.mode == "online" and not recorded_runs(folder, sweep.id):
        timeout = settings.timeout + SECONDS_PER_CELL * len(new)
        Upload(folder / "wandb", None, new, timeout).finish()


def _identity(config: SweepConfig) -> Identity:
    request = CellStore(Path(config.paths.output_dir)).identity().settings
    return sweep_identity(config, request_key(request))
