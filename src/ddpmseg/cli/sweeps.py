"""`report`, `select`, `jobs` and `dashboard`: what is done with a sweep and with a multirun."""

import logging
from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_accelerator, add_command, number, path, show, whole

log = logging.getLogger(__name__)


def add(commands: Any) -> None:
    command = add_command(commands, "report", _report, "draw the report of a sweep's folder anew")
    command.add_argument("folder", type=path, help="output folder of ddpmseg sweep")

    text = "propose blocks and timesteps for a multi-feature head, from a sweep"
    command = add_command(commands, "select", _select, text)
    command.add_argument("folder", type=path, help="output folder of ddpmseg sweep")
    command.add_argument("--passes", type=number, default=3, help="timesteps at most")
    command.add_argument(
        "--channels", dest="max_channels", type=whole(), help="features of a pixel vector at most"
    )
    add_accelerator(command)

    text = "list the jobs of a multirun and their states"
    command = add_command(commands, "jobs", _jobs, text)
    command.add_argument("folder", type=path, help="the multirun's, below outputs/multirun")
    command.add_argument(
        "--report", action="store_true", help="also write jobs.csv and a report of what is done"
    )

    text = "make a W&B workspace for a project's runs"
    command = add_command(commands, "dashboard", _dashboard, text)
    command.add_argument("--project", default="ddpmseg", help="default: ddpmseg")
    command.add_argument("--entity", help="user or team; default: that of the account")
    command.add_argument("--name", default="blocks and timesteps", help="of the workspace")
    command.add_argument("--dry-run", action="store_true", help="print the view, save nothing")


def _report(folder: Path) -> int:
    from ddpmseg.sweeps.report import write_sweep_report

    write_sweep_report(folder)
    return 0


def _select(**options: Any) -> int:
    from ddpmseg.sweeps.select import select

    return show(select(**options).lines())


def _jobs(folder: Path, report: bool) -> int:
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


def _dashboard(project: str, entity: str | None, name: str, dry_run: bool) -> int:
    from ddpmseg.sweeps.dashboard import as_json, build, save

    workspace = build(entity or "", project, name)
    return show([as_json(workspace) if dry_run else save(workspace)])
