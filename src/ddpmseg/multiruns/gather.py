"""After the last job of a multirun: what all of them found, in one report."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch

from ddpmseg.composition.checks import TASKS
from ddpmseg.config import TrainConfig
from ddpmseg.finished.open import FinishedRun, open_run, open_sweep
from ddpmseg.io.damage import explain_damage
from ddpmseg.multiruns.job_records import State, read_jobs
from ddpmseg.multiruns.job_table import log_jobs
from ddpmseg.numbering import Numbering
from ddpmseg.records.cell_grid import Cell, CellGrid
from ddpmseg.records.cells import REPORT
from ddpmseg.records.results import RESULTS, read_confusion
from ddpmseg.report.study import Study
from ddpmseg.sweeps.networks import NetworkSlot
from ddpmseg.sweeps.report import network_record, write_study
from ddpmseg.sweeps.resolve import resolve_sweep
from ddpmseg.sweeps.sweep import show
from ddpmseg.sweeps.track import log_multirun, record_cells, sweep_run

log = logging.getLogger(__name__)
CELL = ("features.blocks", "features.timesteps", "seed")
"""Settings in which the runs of a report differ."""


def gather(folder: Path, command: str) -> int:
    """Log the jobs of a multirun and report what they found; returns how many failed.

    Leaves in `folder` `jobs.csv`, and for jobs of `train` the cells and the report of those that
    read out a single (block, timestep). Jobs of `sweep` share the folder of their sweep, and the
    report is made there.
    """
    jobs = read_jobs(folder)
    log_jobs(jobs, folder)
    succeeded = [job for job in jobs if job.miou is not None]
    for sweep in dict.fromkeys(job.folder for job in succeeded if job.program == "sweep"):
        resolved = resolve_sweep(open_sweep(Path(sweep)).config)
        config = resolved.config
        with sweep_run(config) as run:
            show(resolved, config.dataset.build(), NetworkSlot(resolved.device), run)
        record_cells(config)
    _report_runs([Path(job.folder) for job in succeeded if job.program == "train"], folder, command)
    return sum(job.state in (State.FAILED, State.CUT_OFF) for job in jobs)


def _report_runs(runs: Sequence[Path], folder: Path, command: str) -> None:
    """A report for every set of runs that differ in block, timestep and seed alone.

    Where no job has a result, as after a change of files that all refuse, an earlier report goes.
    """
    groups: dict[str, dict[tuple[int, int, int], Cell]] = defaultdict(dict)
    configs: dict[str, TrainConfig] = {}
    for run in dict.fromkeys(runs):
        opened = open_run(run, TASKS)
        config = opened.config
        if config.task != "segment":
            continue
        blocks, timesteps = config.features.blocks, config.features.timesteps
        if len(blocks) > 1 or len(timesteps) > 1:
            log.info("'%s' reads out several maps at once: it is in no curve", run)
            continue
        key = _all_else(opened)
        configs[key] = config
        cell = Cell(blocks[0], timesteps[0], config.seed, *_counts_and_seconds(opened))
        groups[key][cell.key] = cell
    if not groups and (folder / "cells.csv").exists():
        log.warning("no job has a result: the earlier report in '%s' is removed", folder)
        for path in chain.from_iterable(folder.glob(pattern) for pattern in REPORT):
            path.unlink()
    for key, cells in groups.items():
        place = folder
        if len(groups) > 1:
            config = configs[key]
            number = list(groups).index(key)
            place = folder / f"{config.dataset.name}_{config.backbone.name}_{number}"
            place.mkdir(exist_ok=True)
        study = _study(configs[key], cells.values(), command)
        write_study(place, study)
        log_multirun(configs[key], study, place, folder)


def _all_else(run: FinishedRun) -> str:
    """The identity of a run but for its block, timestep and seed."""
    identity = run.identity
    settings = {key: value for key, value in identity.settings.items() if key not in CELL}
    return json.dumps([settings, identity.arithmetic, identity.digests], sort_keys=True)


def _counts_and_seconds(run: FinishedRun) -> tuple[torch.Tensor, float]:
    with explain_damage(run.folder / RESULTS, "Repeat the run with `paths.overwrite=true`."):
        given = run.results.items()
        seconds = sum(float(value or 0) for key, value in given if key.startswith("seconds_"))
    return read_confusion(run.folder, run.classes.num_classes), seconds


def _study(config: TrainConfig, cells: Iterable[Cell], command: str) -> Study:
    classes = config.dataset.class_table()
    network = network_record(config.backbone.shape())
    return Study(
        dataset=config.dataset.name,
        backbone=config.backbone.name,
        classes=classes,
        grid=CellGrid(cells, classes.ignore_label, Numbering.read(network)),
        command=command,
        settings={
            "image size": f"{config.dataset.image_size} pixels",
            "head": config.head.summary,
            "features": f"block {config.features.hook}s, noise {config.features.noise}",
        },
    )
