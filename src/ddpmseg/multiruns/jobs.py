"""How a program is run: alone, or as a job of a multirun that must not stop the others."""

import hashlib
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from ddpmseg.config import which_job
from ddpmseg.errors import ConfigError, UserError
from ddpmseg.io.locks import FolderLocks
from ddpmseg.multiruns.gpus import take_gpu
from ddpmseg.multiruns.job_records import Job, Plan, State, lock_of, stop, stopped_by
from ddpmseg.runtime.logs import log_file

log = logging.getLogger(__name__)
LOG = "job.log"


@dataclass(frozen=True)
class Program:
    """What an entry point runs.

    run: does the work and returns the number to optimise; its second argument is whether it is a
        job of a multirun.
    finished: that number where the work is done already, else None; changes nothing.
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
        try:
            _refuse_dry_run(cfg)
            return program.run(cfg, False)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)
    multirun, folder = Path(hydra.sweep.dir), Path(hydra.runtime.output_dir)
    job = Job(
        number=hydra.job.num,
        overrides=which_job(hydra.overrides.task),
        program=program.name,
        state=State.RUNNING,
        folder=str(OmegaConf.select(cfg, "paths.output_dir", throw_on_missing=False) or ""),
    )
    started = time.perf_counter()
    with log_file(folder / LOG), FolderLocks(multirun).hold(_locks(job)):
        if Job.is_there(folder):
            job = replace(job, broke=Job.read(folder).has_failed)
        job.write(folder)
        told = _attempt(program, cfg, job, multirun)
        seconds = round(time.perf_counter() - started, 1)
        if told.state is State.FAILED:
            with (folder / LOG).open("a") as file:
                file.write(told.traceback)
            if cfg.multirun.fail_fast:
                stop(multirun, job.number)
        replace(
            job,
            state=told.state,
            miou=told.miou,
            seconds=seconds,
            error=told.error,
            broke=job.broke and told.state is State.LEFT_OUT,
        ).write(folder)
    return float("nan") if told.state is State.FAILED else told.miou


@dataclass(frozen=True)
class _Told:
    """What came of an attempt."""

    state: State
    miou: float | None = None
    error: str = ""
    traceback: str = ""


def _attempt(program: Program, cfg: DictConfig, job: Job, multirun: Path) -> _Told:
    try:
        # Before anything asks for a GPU: CUDA looks at its environment once.
        take_gpu(cfg.trainer.accelerator)
        if cfg.multirun.resume == "rerun":
            cfg.paths.overwrite = True
        finished = program.finished(cfg)
        if finished is not None:
            log.info("finished before with miou %.4f: skipped", finished)
            return _Told(State.SKIPPED, finished)
        if reason := _left_out(cfg, job, multirun):
            log.info("left out: %s", reason)
            return _Told(State.LEFT_OUT, error=reason)
        if program.name == "train":
            share_passes(cfg, job, multirun)
        return _Told(State.DONE, program.run(cfg, True))
    except Exception as error:
        # Whatever it is, the next job deserves its chance; the exit status tells of this one.
        text = f"{type(error).__name__}: {error}"
        log.error("%s", text)
        return _Told(State.FAILED, error=text, traceback=traceback.format_exc())


def _left_out(cfg: DictConfig, job: Job, multirun: Path) -> str:
    """Why a job that is not finished shall not run; empty where it shall."""
    if cfg.multirun.fail_fast and (number := stopped_by(multirun)) is not None:
        return f"job {number} failed, and `multirun.fail_fast=true`"
    if cfg.multirun.resume == "only_failed" and not job.broke:
        return "it has not failed before, and `multirun.resume=only_failed`"
    return ""


def share_passes(cfg: DictConfig, job: Job, multirun: Path) -> None:
    """Let a job keep maps for the others of its multirun: those of all blocks they read."""
    with open_dict(cfg):
        if not cfg.features.cache_gb and cfg.multirun.share_gb:
            cfg.features.cache_gb = cfg.multirun.share_gb
            cfg.features.cache_dir = str(multirun / "maps")
        if cfg.features.cache_gb and not cfg.features.cache_blocks:
            cfg.features.cache_blocks = Plan.read(multirun).blocks_beside(job.overrides)


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
