"""`dashboard`: a workspace of W&B for the runs of a project."""

from typing import Any

from ddpmseg.cli.common import add_command, show


def add(commands: Any) -> None:
    def run(project: str, entity: str | None, name: str, dry_run: bool) -> int:
        from ddpmseg.sweeps.dashboard import as_json, build, save

        workspace = build(entity or "", project, name)
        return show([as_json(workspace) if dry_run else save(workspace)])

    command = add_command(commands, "dashboard", run, "make a W&B workspace for a project's runs")
    command.add_argument("--project", default="ddpmseg", help="default: ddpmseg")
    command.add_argument("--entity", help="user or team; default: that of the account")
    command.add_argument("--name", default="blocks and timesteps", help="of the workspace")
    command.add_argument("--dry-run", action="store_true", help="print the view, save nothing")
