"""The jobs of a multirun as a table: on the screen and in `jobs.csv`. Imports no torch."""

import csv
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ddpmseg.io.csv_cells import guarded
from ddpmseg.io.files import atomic_write
from ddpmseg.multiruns.job_records import Job, State

log = logging.getLogger(__name__)
TABLE = "jobs.csv"
COLUMNS = ("job", "overrides", "state", "miou", "seconds", "folder", "error")
ALWAYS_COUNTED = (State.DONE, State.SKIPPED, State.FAILED)


def log_jobs(jobs: Sequence[Job], multirun: Path) -> None:
    """Log a line about every job and how many are in which state, and write `jobs.csv`."""
    write(jobs, multirun)
    for line in lines(jobs, multirun):
        log.info(line)
    log.info("%s; %s", counted(jobs), multirun / TABLE)


def write(jobs: Sequence[Job], multirun: Path) -> None:
    """Write `jobs.csv`: a header and a row of `COLUMNS` for every job.

    Overrides are quoted for a shell, so that a command can be made of them.
    """
    with (
        atomic_write(multirun / TABLE) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for job in jobs:
            score = "" if job.miou is None else job.miou
            outcome = (job.state, score, job.seconds, job.folder, job.error)
            cells = (job.number, shlex.join(job.overrides), *outcome)
            writer.writerow([guarded(cell) for cell in cells])


def lines(jobs: Sequence[Job], multirun: Path, folders: bool = False) -> list[str]:
    """A line with state, score and own overrides of every job, and one with its error, if any.

    Overrides are quoted for a shell. folders: also name the output folder of each job.
    """
    same = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    found = []
    for job in jobs:
        own = shlex.join(override for override in job.overrides if override not in same)
        score = "" if job.miou is None else f"{job.miou:.6f}"
        folder = f"  -> {job.folder}" if folders else ""
        found.append(f"{job.number:>3}  {job.state:<8} {score:<9} {own}{folder}".rstrip())
        if job.state is State.FAILED:
            log_path = multirun / str(job.number) / "job.log"
            found.append(f"     {job.error} (see {log_path})")
        elif job.error:
            found.append(f"     {job.error}")
    return found


def counted(jobs: Sequence[Job]) -> str:
    """'24 jobs: 20 done, 3 skipped, 1 failed', with other states where there are any."""
    states = Counter(job.state for job in jobs)
    shown = [state for state in State if states[state] or state in ALWAYS_COUNTED]
    return f"{len(jobs)} jobs: {', '.join(f'{states[state]} {state}' for state in shown)}"
