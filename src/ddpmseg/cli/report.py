"""`report`: the report of a sweep, drawn anew."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command


def add(commands: Any) -> None:
    def run(folder: Path) -> int:
        from ddpmseg.sweeps.report import write_sweep_report

        write_sweep_report(folder)
        return 0

    command = add_command(commands, "report", run, "draw the report of a sweep's folder anew")
    command.add_argument("folder", type=Path)
