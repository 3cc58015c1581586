"""`table`: runs beside the published numbers."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_choice_of_runs, add_command


def add(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.compare.table import table

        table(**options)
        return 0

    command = add_command(commands, "table", run, "means over runs of train.py, beside the paper's")
    add_choice_of_runs(command, "md")
    command.add_argument(
        "--by", action="append", default=[], metavar="KEY",
        help="rows are the values of this setting, as head.members; a second one makes columns",
    )  # fmt: skip
    command.add_argument("--line", metavar="KEY", help="columns and lines; else one per dataset")
    command.add_argument("--figure", type=Path, help="draw the means of --by as .png or .svg")
