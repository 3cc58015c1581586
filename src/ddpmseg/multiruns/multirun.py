"""Before the first job of a multirun and after the last: its plan, its table, its exit status."""

import atexit
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ddpmseg.command_line import called_command
from ddpmseg.config import RESUMES, which_job
from ddpmseg.config.overrides import composition_error
from ddpmseg.config.search_path import log_hidden_files
from ddpmseg.config.values import refuse_unknown
from ddpmseg.errors import ConfigError, MissingLibraryError, UserError
from ddpmseg.io.folders import check_writable
from ddpmseg.io.locks import FolderLocks
from ddpmseg.multiruns import job_table
from ddpmseg.multiruns.job_records import (
    Job,
    Plan,
    State,
    as_written,
    begin,
    read_jobs,
    running_jobs,
)
from ddpmseg.multiruns.slurm import prepare_slurm

log = logging.getLogger(__name__)
MAPS = "maps"
"""Folder of the maps that the jobs share, while the multirun lasts."""
LAUNCHERS = ("hydra_plugins.hydra_joblib_launcher", "hydra_plugins.hydra_submitit_launcher")


class GatherJobs(Callback):
    """Hydra callback. Plans the jobs, logs what became of each, and reports their cells.

    In the folder of the multirun: `multirun.json`, its plan; `jobs.csv`; and what
    `ddpmseg.multiruns.gather` makes of the jobs' results. The exit status is 1 when a job failed.
    With `multirun.dry_run` the jobs are listed and nothing else happens. Nothing is submitted to a
    launcher if all jobs are finished.
    """

    def __init__(self) -> None:
        self._ended = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        log_hidden_files(config.hydra.job.config_name, config.hydra.runtime.choices)
        folder = Path(config.hydra.sweep.dir)
        with _exit_status(folder, "the jobs could not be planned"):
            _check(config)
            plan = Plan(config.hydra.job.name, called_command(), planned_jobs(config))
            if config.multirun.dry_run:
                dry_run(plan, folder, config)
                sys.exit(0)
            begin(folder, plan)
            if _is_submitted(config) and _all_finished(plan, config):
                log.info("all %d jobs are finished: nothing is submitted", len(plan.jobs))
                self._gather(folder)
                sys.exit(0)
            if config.hydra.launcher._target_.endswith(".SlurmLauncher"):
                prepare_slurm()
        # Hydra calls `on_multirun_end` only if nothing was raised.
        atexit.register(self._report_if_broken_off, folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        self._ended = True
        # After each job Hydra goes back to the logging of its own lines.
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        with _exit_status(folder, "the jobs could not be gathered"):
            self._gather(folder)

    def _gather(self, folder: Path) -> None:
        from ddpmseg.multiruns.gather import gather  # with torch, for which jobs need not wait

        # The same command may run twice: both write the same tables and pages.
        gathering = {"gather": f"the jobs in '{folder}' are being gathered"}
        with FolderLocks(folder).hold(gathering):
            failed = gather(folder, called_command())
            if not failed and not running_jobs(folder):
                shutil.rmtree(folder / MAPS, ignore_errors=True)
        if failed:
            sys.exit(1)

    def _report_if_broken_off(self, folder: Path) -> None:
        if self._ended:
            return
        try:
            jobs = read_jobs(folder)
            if all(job.state is State.WAITING for job in jobs):
                return  # a mistake in the command, which Hydra has reported
            job_table.log_jobs(jobs, folder)
        except (UserError, OSError) as error:
            sys.stderr.write(f"error: the jobs in '{folder}' cannot be listed: {error}\n")
        log.warning("the multirun broke off; repeat the command to go on: %s", called_command())


@contextmanager
def _exit_status(folder: Path, failure: str) -> Iterator[None]:
    """End the process with a message and a status if the block fails.

    Hydra would turn an exception into a warning, and start jobs, or end with status 0.
    """
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except OSError as error:
        reason = error.strerror or error
        sys.stderr.write(f"error: '{folder}' cannot be written to ({reason}).\n")
        sys.exit(2)
    except Exception:
        log.exception(failure)
        sys.exit(1)


def _is_submitted(config: DictConfig) -> bool:
    """Whether a launcher starts other processes for the jobs, on this machine or another."""
    return not config.hydra.launcher._target_.endswith(".BasicLauncher")


def _all_finished(plan: Plan, config: DictConfig) -> bool:
    """Whether every job's results are there; False for a sweeper that decides as it goes."""
    if not plan.jobs or config.multirun.resume == "rerun":
        return False
    before = HydraConfig.instance().cfg
    try:
        jobs = (_composed(number, job, config) for number, job in enumerate(plan.jobs))
        return all(_finished(plan.program, cfg) is not None for cfg in jobs)
    except (UserError, HydraException, OmegaConfBaseException):
        return False  # the job itself will say it
    finally:
        HydraConfig.instance().cfg = before


def planned_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of every job, in the order in which the sweeper numbers them.

    Without those that say how jobs are run. Empty for a sweeper other than Hydra's own, which
    decides as it goes.
    """
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    given += as_written(config.hydra.overrides.task)
    try:
        parsed = OverridesParser.create().parse_overrides(given)
        ((*jobs,),) = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        raise ConfigError(str(error)) from error
    return [which_job(job) for job in jobs]


def dry_run(plan: Plan, multirun: Path, config: DictConfig) -> None:
    """Log what is known of every job, and where its results are or will be.

    'skipped' is also a job whose results another command has left. `config` is that of the
    multirun, with Hydra's own settings.
    """
    if not plan.jobs:
        raise ConfigError(
            "`multirun.dry_run=true`: this sweeper decides on its jobs as it goes, so that nobody "
            "can list them. Leave out `hydra/sweeper=...`."
        )
    same_plan = Plan.read(multirun).jobs in ([], plan.jobs)
    known = {job.number: job for job in read_jobs(multirun)} if same_plan else {}
    try:
        jobs = [
            _foreseen(number, plan, known.get(number), config) for number in range(len(plan.jobs))
        ]
    finally:
        HydraConfig.instance().cfg = None
    for line in job_table.lines(jobs, multirun, folders=True):
        log.info(line)
    log.info("%s; nothing was started. Folder: %s", job_table.counted(jobs), multirun)


def _foreseen(number: int, plan: Plan, known: Job | None, config: DictConfig) -> Job:
    """A job as it is, with the output folder its settings give it."""
    overrides: Sequence[str] = plan.jobs[number]
    try:
        cfg = _composed(number, overrides, config)
        folder = cfg.paths.output_dir
    except (HydraException, OmegaConfBaseException) as error:
        reason = composition_error(error)
        raise ConfigError(f"job {number} ({shlex.join(overrides)}): {reason}") from error
    state, score = (known.state, known.miou) if known is not None else (State.WAITING, None)
    error = "" if known is None else known.error
    if state is State.WAITING:
        try:
            finished = _finished(plan.program, cfg)
            state = State.WAITING if finished is None else State.SKIPPED
            score = None if finished is None or isnan(finished) else finished
        except UserError as reason:
            error = str(reason)
    return Job(number, list(overrides), plan.program, state, folder, score, error=error)


def _composed(number: int, overrides: Sequence[str], config: DictConfig) -> DictConfig:
    """The settings of a job, in which `${hydra:...}` has the value that the job will find."""
    cfg = compose(config.hydra.job.config_name, list(overrides))
    whole = cfg.copy()
    with open_dict(whole):
        whole.hydra = config.hydra.copy()
        with read_write(whole.hydra), open_dict(whole.hydra):
            whole.hydra.job.num, whole.hydra.job.id = number, str(number)
            folder = Path(whole.hydra.sweep.dir) / str(whole.hydra.sweep.subdir)
            whole.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(whole)
    return cfg


def _finished(program: str, cfg: DictConfig) -> float | None:
    """The score of a job that is done already."""
    # With torch, for which other commands need not wait.
    from ddpmseg.runs import train
    from ddpmseg.sweeps import sweep

    return {"train": train.finished, "sweep": sweep.finished}[program](cfg)


def _check(config: DictConfig) -> None:
    """What is wrong with the settings of the multirun itself."""
    refuse_unknown(config)
    check_writable("hydra.sweep.dir", config.hydra.sweep.dir)
    if config.multirun.resume not in RESUMES:
        raise ConfigError(
            f"`multirun.resume={config.multirun.resume}`: must be one of {', '.join(RESUMES)}."
        )
    if not config.multirun.share_gb >= 0:  # NaN is not
        raise ConfigError(f"`multirun.share_gb={config.multirun.share_gb}`: must be at least 0.")
    if config.trainer.devices > 1:
        from ddpmseg.composition.checks import check_one_device

        check_one_device(config.trainer, in_multirun=True)
    target = config.hydra.launcher._target_
    for module in LAUNCHERS:
        if target.startswith(module) and not _is_installed(module):
            raise MissingLibraryError("`hydra/launcher`", module, "launchers")


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
