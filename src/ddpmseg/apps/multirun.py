"""After the last job of a multirun: one table, one report, and an exit status that tells."""

import csv
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.utils import configure_log
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ddpmseg.analysis.cells import Cell, CellGrid
from ddpmseg.analysis.numbering import Numbering
from ddpmseg.analysis.study import Study
from ddpmseg.apps.build import build_backbone_without_weights, build_dataset
from ddpmseg.apps.jobs import JOB, Job
from ddpmseg.apps.load import load_config, load_sweep_config
from ddpmseg.apps.report import network_record, write_study
from ddpmseg.apps.setup import quiet_libraries
from ddpmseg.apps.sweep import show
from ddpmseg.apps.track import log_multirun, record_cells, sweep_run
from ddpmseg.config import TrainConfig
from ddpmseg.data.class_table import load_class_table
from ddpmseg.errors import UserError
from ddpmseg.tracking.results import RESULTS, write_table

log = logging.getLogger(__name__)
COLUMNS = ("job", "overrides", "state", "miou", "seconds", "folder", "error")


class GatherJobs(Callback):
    """Hydra callback. Tells which jobs are done, skipped or failed and reports their cells.

    In the folder of the multirun: `jobs.csv`, and for jobs of `train.py` the cells and the report
    of those that read out a single (block, timestep). Jobs of `sweep.py` share the folder of their
    sweep, and the report is made there. The exit status is 1 when a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        for path in _records(Path(config.hydra.sweep.dir)):
            path.unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        # After each job Hydra goes back to the logging of its own lines.
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        try:
            failed = gather(folder, "python " + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)
        except Exception:
            # Hydra would turn it into a warning and a status of 0.
            log.exception("the jobs could not be gathered")
            sys.exit(1)
        if failed:
            sys.exit(1)


def gather(folder: Path, command: str) -> int:
    """Tell of the jobs below `folder` and report what they found; returns how many failed."""
    jobs = sorted((Job.read(path) for path in _records(folder)), key=lambda job: job.number)
    rows = [
        {
            "job": job.number,
            "overrides": " ".join(job.overrides),
            "state": job.state,
            "miou": "" if job.miou is None else f"{job.miou:.6f}",
            "seconds": job.seconds,
            "folder": job.folder,
            "error": job.error,
        }
        for job in jobs
    ]
    write_table(folder / "jobs.csv", COLUMNS, rows)
    same = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job, row in zip(jobs, rows, strict=True):
        own = " ".join(override for override in job.overrides if override not in same)
        log.info("%3s  %-8s %-9s %s", row["job"], row["state"], row["miou"], own)
        if row["error"]:
            log.info("     %s (see %s)", row["error"], folder / str(row["job"]) / "job.log")
    states = Counter(job.state for job in jobs)
    log.info(
        "%d jobs: %s; %s",
        len(jobs),
        ", ".join(f"{states[state]} {state}" for state in ("done", "skipped", "failed")),
        folder / "jobs.csv",
    )
    quiet_libraries()
    succeeded = [job for job in jobs if job.state != "failed" and job.miou is not None]
    for sweep in dict.fromkeys(job.folder for job in succeeded if job.program == "sweep"):
        config = load_sweep_config(Path(sweep))
        with sweep_run(config) as run:
            show(config, build_dataset(config.dataset), run)
        record_cells(config)
    _report_runs([Path(job.folder) for job in succeeded if job.program == "train"], folder, command)
    return states["failed"]


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{JOB}"))


def _report_runs(runs: Sequence[Path], folder: Path, command: str) -> None:
    """A report for every set of runs that differ in block, timestep and seed alone."""
    groups: dict[str, dict[tuple[int, int, int], Cell]] = defaultdict(dict)
    configs: dict[str, TrainConfig] = {}
    for run in dict.fromkeys(runs):
        config = load_config(run)
        blocks, timesteps = config.features.blocks, config.features.timesteps
        if len(blocks) > 1 or len(timesteps) > 1:
            log.info("'%s' reads out several maps at once: it is in no curve", run)
            continue
        key = _all_else(config)
        configs[key] = config
        cell = Cell(blocks[0], timesteps[0], config.seed, *_counts_and_seconds(run))
        groups[key][cell.key] = cell
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


def _all_else(config: TrainConfig) -> str:
    """The settings of a run but for its block, timestep, seed, logger and paths."""
    features = config.features
    fixed = (features.hook, features.noise, config.trainer.precision)
    return repr((config.dataset, config.backbone, config.head, fixed))


def _counts_and_seconds(run: Path) -> tuple[torch.Tensor, float]:
    with (run / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    with (run / RESULTS).open(newline="") as file:
        row = next(csv.DictReader(file))
    seconds = sum(float(value) for key, value in row.items() if key.startswith("seconds_"))
    return torch.tensor([[int(number) for number in row[1:]] for row in rows]), seconds


def _study(config: TrainConfig, cells: Iterable[Cell], command: str) -> Study:
    classes = load_class_table(config.dataset.classes)
    network = network_record(build_backbone_without_weights(config.backbone))
    return Study(
        dataset=config.dataset.name,
        backbone=config.backbone.name,
        classes=classes,
        grid=CellGrid(cells, classes.ignore_label, Numbering.read(network)),
        command=command,
        settings={
            "image size": f"{config.dataset.image_size} pixels",
            "head": f"{config.head.members} members, protocol {config.head.protocol}",
            "features": f"block {config.features.hook}s, noise {config.features.noise}",
        },
    )
