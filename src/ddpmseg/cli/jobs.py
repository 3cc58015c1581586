"""`jobs`: how far a multirun is, while it runs and after it was killed."""

import logging
from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command

log = logging.getLogger(__name__)


def add(commands: Any) -> None:
    def run(folder: Path, report: bool) -> int:
        from ddpmseg.errors import ConfigError
        from ddpmseg.multiruns import job_table
        from ddpmseg.multiruns.job_records import PLAN, Plan, read_jobs

        if not (folder / PLAN).is_file():
            raise ConfigError(
                f"'{folder}' is not the folder of a multirun: there is no '{folder / PLAN}'. Name "
                "one of those below outputs/multirun."
            )
        if report:
            from ddpmseg.multiruns.gather import gather

            gather(folder, Plan.read(folder).command)
            return 0
        jobs = read_jobs(folder)
        for line in job_table.lines(jobs, folder):
            log.info(line)
        log.info(job_table.counted(jobs))
        return 0

    command = add_command(commands, "jobs", run, "list the jobs of a multirun and their states")
    command.add_argument("folder", type=Path, help="the multirun's, below outputs/multirun")
    command.add_argument(
        "--report", action="store_true", help="also write jobs.csv and a report of what is done"
    )
