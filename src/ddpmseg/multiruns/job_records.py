"""What a multirun leaves on disk about itself: its plan, and a record of every job.

All is written whole by one process each and read by many, so that a kill at any moment leaves
nothing that could mislead the next command. Nothing here imports torch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ddpmseg.errors import ConfigError
from ddpmseg.io.damage import explain_damage
from ddpmseg.io.files import atomic_write, remove_unfinished
from ddpmseg.io.locks import FolderLocks
from ddpmseg.io.record_file import read_record, write_record
from ddpmseg.records.folder_kind import check_kind

JOB, PLAN, STOP = "job.json", "multirun.json", "stopped"
BLOCKS, TIMESTEPS = "features.blocks=", "sweep.timesteps="
INDIFFERENT = {
    BLOCKS: (BLOCKS, "head=", "head.", "logger=", "logger."),
    TIMESTEPS: (TIMESTEPS,),
}
"""Beginnings of overrides in which jobs may differ that share forward passes, or a control."""


class State(StrEnum):
    """Of a job. Only the first four are ever written."""

    DONE = "done"
    """By this multirun, if not by its last command."""
    SKIPPED = "skipped"
    """Finished by another command."""
    FAILED = "failed"
    LEFT_OUT = "left out"
    """By `multirun.resume` or `multirun.fail_fast`."""
    RUNNING = "running"
    """What a job writes when it begins."""
    CUT_OFF = "cut off"
    """Begun by a process that is gone: killed, or out of memory."""
    WAITING = "waiting"
    """Not begun."""


FINISHED = (State.DONE, State.SKIPPED)


@dataclass(frozen=True)
class Job:
    """What became of one job.

    folder: its output folder. error: what failed, or why it was left out. broke: whether the last
    attempt at it, if it is not this one, failed or was cut off.
    """

    number: int
    overrides: list[str]
    program: str
    state: State
    folder: str = ""
    miou: float | None = None
    seconds: float = 0.0
    error: str = ""
    broke: bool = False

    def write(self, folder: Path) -> None:
        """Into Hydra's folder for the job."""
        write_record(folder / JOB, asdict(self))

    @staticmethod
    def is_there(folder: Path) -> bool:
        return (folder / JOB).is_file()

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt failed or was cut off, as seen by the next."""
        return self.state in (State.FAILED, State.RUNNING, State.CUT_OFF) or self.broke

    def has_left(self, miou: float | None) -> bool:
        """Whether this attempt is what left the results with this score.

        An attempt that ran to a process's end may have ended between the results and its record.
        Version 0.1 rounded scores to six digits.
        """
        if self.state is State.DONE:
            if miou is None or self.miou is None:
                return miou == self.miou
            return abs(self.miou - miou) <= 1e-6
        return self.state in (State.RUNNING, State.CUT_OFF)

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Raises ConfigError where the record is damaged or of a later version."""
        path = folder / JOB
        remedy = f"Delete '{folder}', and repeat the command of the multirun."
        content = read_record(path, remedy)
        with explain_damage(path, remedy):
            content["state"] = State(content["state"])
            _check_overrides(content["overrides"])
            job = cls(**content)
            texts, seconds = (job.program, job.folder, job.error), float(job.seconds)
            if type(job.number) is not int or job.number < 0 or seconds < 0:
                raise ValueError(f"its number is {job.number!r}, its seconds are {seconds}")
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("program, folder and error are no texts")
            if not (job.miou is None or 0 <= job.miou <= 1):
                raise ValueError(f"its miou is {job.miou!r}")
            return job


@dataclass(frozen=True)
class Plan:
    """The jobs of a multirun by number, each as its overrides."""

    program: str = ""
    command: str = ""
    jobs: list[list[str]] = field(default_factory=list)

    def write(self, multirun: Path) -> None:
        multirun.mkdir(parents=True, exist_ok=True)
        write_record(multirun / PLAN, asdict(self))

    @classmethod
    def read(cls, multirun: Path) -> "Plan":
        """An empty plan where there is none; ConfigError as `Job.read`."""
        path = multirun / PLAN
        if not path.is_file():
            return cls()
        remedy = "Delete it, and repeat the command of the multirun."
        content = read_record(path, remedy)
        with explain_damage(path, remedy):
            plan = cls(**content)
            if not isinstance(plan.program, str) or not isinstance(plan.command, str):
                raise ValueError("program and command are no texts")
            for job in _listed(plan.jobs):
                _check_overrides(job)
            return plan

    def numbers_beside(self, overrides: Sequence[str], axis: str) -> list[int]:
        """Numbers that `axis` (`BLOCKS` or `TIMESTEPS`) has in all jobs that differ in it alone.

        Jobs of `BLOCKS` may differ in head and logger as well: they read the same forward passes,
        and one pass serves them all, whatever their order.
        """

        def rest(job: Sequence[str]) -> list[str]:
            return [given for given in job if not given.startswith(INDIFFERENT[axis])]

        beside = [job for job in self.jobs if rest(job) == rest(overrides)]
        given = {override for job in beside for override in job if override.startswith(axis)}
        return sorted({number for override in given for number in _numbers(override)})


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"no list but {type(value).__name__}")
    return value


def _check_overrides(value: Any) -> None:
    """Raise ValueError for anything but a list of texts, as read from a file."""
    if not all(isinstance(override, str) for override in _listed(value)):
        raise ValueError("its overrides are no texts")


def _numbers(override: str) -> list[int]:
    """The value of an override that is a list of numbers; empty for anything else."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return []
    if not isinstance(value, list):
        return []
    return [number for number in value if isinstance(number, int)]


def read_jobs(multirun: Path) -> list[Job]:
    """All jobs, by number, as they are now: with those that run, wait, or were cut off."""
    plan = Plan.read(multirun)
    found = {
        number: Job(number, overrides, plan.program, State.WAITING)
        for number, overrides in enumerate(plan.jobs)
    }
    for path in multirun.glob(f"*/{JOB}"):
        job = Job.read(path.parent)
        # On a disk without locks every job that has begun counts as running.
        if job.state is State.RUNNING and not FolderLocks(multirun).is_held(lock_of(job.number)):
            job = replace(job, state=State.CUT_OFF)
        found[job.number] = job
    return [found[number] for number in sorted(found)]


def as_written(overrides: Any) -> list[str]:
    """The overrides that Hydra keeps, each as it was given: with its interpolations."""
    written = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(written, list)
    return [str(override) for override in written]


def lock_of(number: int) -> str:
    """Name of the lock that a process holds while it runs a job."""
    return f"job{number}"


def running_jobs(multirun: Path) -> list[int]:
    """Numbers of the jobs that a process runs now."""
    locks = FolderLocks(multirun)
    names = [path.name for path in multirun.glob(f".locks/{lock_of(0)[:-1]}*")]
    return sorted(int(name[len(lock_of(0)) - 1 :]) for name in names if locks.is_held(name))


def begin(multirun: Path, plan: Plan) -> None:
    """Prepare the folder for a command. What is known of its jobs stays.

    Records of another plan go: their numbers would mean other jobs. Raises ConfigError while jobs
    of another plan run, and for a folder of another program.
    """
    check_kind(multirun, "multirun", "hydra.sweep.dir")
    if Plan.read(multirun).jobs not in ([], plan.jobs):
        if running := running_jobs(multirun):
            raise ConfigError(
                f"`hydra.sweep.dir={multirun}`: job {running[0]} of another multirun runs there. "
                "Wait for it, or choose another `hydra.sweep.dir`."
            )
        for path in multirun.glob(f"*/{JOB}"):
            path.unlink()
    remove_unfinished(multirun, below=True)
    (multirun / STOP).unlink(missing_ok=True)
    plan.write(multirun)


def stop(multirun: Path, number: int) -> None:
    """Begin no further job, for this one has failed."""
    with atomic_write(multirun / STOP) as unfinished:
        unfinished.write_text(str(number), encoding="utf-8")


def stopped_by(multirun: Path) -> int | None:
    """The job because of which none is begun any more."""
    path = multirun / STOP
    if not path.exists():
        return None
    with explain_damage(path, "Delete it, and repeat the command of the multirun."):
        return int(path.read_text(encoding="utf-8"))
