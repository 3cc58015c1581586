"""How a program is run: alone, or as a job of a multirun that must not stop the others."""

import hashlib
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from ddpmseg.config import which_job
from ddpmseg.config.search_path import log_hidden_files
from ddpmseg.errors import ConfigError, DiskError, UserError
from ddpmseg.io.files import append_text, is_full
from ddpmseg.io.locks import FolderLocks
from ddpmseg.multiruns.job_records import (
    BLOCKS,
    FINISHED,
    TIMESTEPS,
    Job,
    Plan,
    State,
    as_written,
    lock_of,
    stop,
    stopped_by,
)
from ddpmseg.runtime.logs import log_file
from ddpmseg.runtime.process_setup import process_setup

log = logging.getLogger(__name__)
LOG = "job.log"


@dataclass(frozen=True)
class Program:
    """What an entry point runs.

    run: does the work and returns the number to optimise; its second argument is whether it is a
        job of a multirun.
    finished: that number where the work is done already, NaN where it has none, else None; changes
        nothing.
    """

    name: str
    run: Callable[[DictConfig, bool], float | None]
    finished: Callable[[DictConfig], float | None]


def run(program: Program, cfg: DictConfig) -> float | None:
    """Run `program`; a mistake of the user's ends a single run with its message and status 2.

    A job of a multirun leaves `job.json` and its log in Hydra's folder for it. `multirun.resume`
    decides which are left out; one that fails leaves its traceback in its log and returns NaN, so
    that the others still run. `ddpmseg.multiruns.multirun.GatherJobs` then makes the exit status
    say so.
    """
    hydra = HydraConfig.get()
    if OmegaConf.is_missing(hydra.job, "num"):
        log_hidden_files(str(hydra.job.config_name), hydra.runtime.choices)
        try:
            _refuse_dry_run(cfg)
            process_setup(cfg.paths.cache_dir, cfg.trainer.accelerator, share_gpus=False)
            return program.run(cfg, False)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)
    multirun, folder = Path(hydra.sweep.dir), Path(hydra.runtime.output_dir)
    job = Job(
        number=hydra.job.num,
        overrides=which_job(as_written(hydra.overrides.task)),
        program=program.name,
        state=State.RUNNING,
        folder=str(OmegaConf.select(cfg, "paths.output_dir", throw_on_missing=False) or ""),
    )
    try:
        with log_file(folder / LOG), FolderLocks(multirun).hold(_locks(job)):
            ended = _attempt(program, cfg, job, multirun, folder)
            ended.write(folder)
            if ended.state is State.FAILED and cfg.multirun.fail_fast:
                stop(multirun, job.number)
    except DiskError as error:
        # A full disk, or a folder of the multirun itself that cannot be written to.
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    return float("nan") if ended.state is State.FAILED else ended.miou


def _last_attempt(folder: Path) -> Job | None:
    """The record of a job, if any; where it is damaged, that of one that failed."""
    if not Job.is_there(folder):
        return None
    try:
        return Job.read(folder)
    except ConfigError as error:
        log.warning("%s The job is looked at again.", error)
        return Job(0, [], "", State.FAILED)


def _attempt(program: Program, cfg: DictConfig, job: Job, multirun: Path, folder: Path) -> Job:
    """Run the job unless it is finished or shall be left out; returns what became of it.

    In `folder` the record says that it runs, and the log gets the traceback if it fails.
    """
    started = time.perf_counter()
    earlier = _last_attempt(folder)
    job = replace(job, broke=earlier is not None and earlier.has_failed)
    if earlier is None or earlier.state not in FINISHED:
        job.write(folder)

    def ended(state: State, miou: float | None = None, error: str = "") -> Job:
        seconds = round(time.perf_counter() - started, 1)
        broke = job.broke and state is State.LEFT_OUT
        return replace(job, state=state, miou=miou, error=error, seconds=seconds, broke=broke)

    try:
        # Before anything asks for a GPU: CUDA looks at its environment once.
        process_setup(cfg.paths.cache_dir, cfg.trainer.accelerator, share_gpus=True)
        cfg = settings_of_job(program.name, cfg, job, multirun)
        finished = program.finished(cfg)
        if finished is not None:
            miou = None if isnan(finished) else finished
            log.info("finished before%s: skipped", "" if miou is None else f" with miou {miou:.4f}")
            if earlier is None or not earlier.has_left(miou):
                return ended(State.SKIPPED, miou)
            return replace(ended(State.DONE, miou), seconds=earlier.seconds)
        if reason := _left_out(cfg, job, multirun):
            log.info("left out: %s", reason)
            return ended(State.LEFT_OUT, error=reason)
        job.write(folder)
        return ended(State.DONE, program.run(cfg, True))
    except Exception as error:
        if is_full(error):
            raise  # the other jobs would find no room either
        # Whatever it is, the next job deserves its chance; the exit status tells of this one.
        text = f"{type(error).__name__}: {error}"
        log.error("%s", text)
        append_text(folder / LOG, traceback.format_exc())
        return ended(State.FAILED, error=text)


def _left_out(cfg: DictConfig, job: Job, multirun: Path) -> str:
    """Why a job that is not finished shall not run; empty where it shall."""
    if cfg.multirun.fail_fast and (number := stopped_by(multirun)) is not None:
        return f"job {number} failed, and `multirun.fail_fast=true`"
    if cfg.multirun.resume == "only_failed" and not job.broke:
        return "it has not failed before, and `multirun.resume=only_failed`"
    return ""


def settings_of_job(program: str, cfg: DictConfig, job: Job, multirun: Path) -> DictConfig:
    """What a job is run with: its own settings, and those that its multirun decides.

    A job of `train` keeps maps for the others: those of all blocks they read. A job of `sweep`
    computes its control at the smallest timestep of all jobs.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        if cfg.multirun.resume == "rerun":
            cfg.paths.overwrite = True
        if program != "train":
            if cfg.sweep.control_timestep is None:
                beside = Plan.read(multirun).numbers_beside(job.overrides, TIMESTEPS)
                cfg.sweep.control_timestep = min(beside, default=None)
            return cfg
        if not cfg.features.cache_gb and cfg.multirun.share_gb:
            cfg.features.cache_gb = cfg.multirun.share_gb
            cfg.features.cache_dir = str(multirun / "maps")
        if cfg.features.cache_gb and not cfg.features.cache_blocks:
            cfg.features.cache_blocks = Plan.read(multirun).numbers_beside(job.overrides, BLOCKS)
    return cfg


def _locks(job: Job) -> dict[str, str]:
    """What to hold so that no other process runs this job, or one with the same output folder."""
    locks = {lock_of(job.number): f"job {job.number} is being run"}
    if job.program == "train" and job.folder:
        # Jobs of a sweep may share their folder: it has locks of its own.
        digest = hashlib.sha256(str(Path(job.folder).absolute()).encode()).hexdigest()
        locks[f"folder{digest[:16]}"] = f"a job with the folder '{job.folder}' is being run"
    return locks


def _refuse_dry_run(cfg: DictConfig) -> None:
    if cfg.multirun.dry_run:
        raise ConfigError(
            "`multirun.dry_run=true` lists the jobs of a multirun: add `-m`. For a single run, "
            "`--cfg job` prints its settings and `ddpmseg estimate` what it takes."
        )
