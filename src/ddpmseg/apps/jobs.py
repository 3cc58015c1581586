"""How a program is run: alone, or as a job of a multirun that must not stop the others."""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ddpmseg.apps.setup import log_file
from ddpmseg.errors import UserError
from ddpmseg.files import written_whole

log = logging.getLogger(__name__)
JOB = "job.json"


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


@dataclass(frozen=True)
class Job:
    """What became of one job of a multirun. `state`: done, skipped or failed."""

    number: int
    overrides: list[str]
    program: str
    state: str
    folder: str
    miou: float | None
    seconds: float
    error: str = ""

    def write(self, folder: Path) -> None:
        with written_whole(folder / JOB) as unfinished:
            unfinished.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Job":
        return cls(**json.loads(path.read_text()))


def run(program: Program, cfg: DictConfig) -> float | None:
    """Run `program`; a mistake of the user's ends a single run with its message and status 2.

    A job of a multirun leaves `job.json` and its log in Hydra's folder for it. One that is finished
    is skipped; one that fails leaves its traceback in its log and returns NaN, so that the others
    still run. `ddpmseg.apps.multirun.GatherJobs` then makes the exit status say so.
    """
    hydra = HydraConfig.get()
    if OmegaConf.is_missing(hydra.job, "num"):
        try:
            return program.run(cfg, False)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)
    folder = Path(hydra.runtime.output_dir)
    started = time.perf_counter()
    with log_file(folder / "job.log"):
        state, miou, error = _attempt(program, cfg, folder / "job.log")
    Job(
        number=hydra.job.num,
        overrides=list(hydra.overrides.task),
        program=program.name,
        state=state,
        folder=str(OmegaConf.select(cfg, "paths.output_dir", throw_on_missing=False) or ""),
        miou=miou,
        seconds=round(time.perf_counter() - started, 1),
        error=error,
    ).write(folder)
    return float("nan") if state == "failed" else miou


def _attempt(program: Program, cfg: DictConfig, log_path: Path) -> tuple[str, float | None, str]:
    """(state, miou, error) of one job."""
    try:
        finished = program.finished(cfg)
        if finished is not None:
            log.info("finished before with miou %.4f: skipped", finished)
            return "skipped", finished, ""
        return "done", program.run(cfg, True), ""
    except Exception as error:
        # Whatever it is, the next job deserves its chance; the exit status tells of this one.
        log.error("%s: %s", type(error).__name__, error)
        with log_path.open("a") as file:
            file.write(traceback.format_exc())
        return "failed", None, f"{type(error).__name__}: {error}"
