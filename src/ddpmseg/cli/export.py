"""`export`: a head in the original code's files."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command


def add(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.runs.export import export

        export(**options)
        return 0

    text = "write the head of a finished run as the original code's model_*.pth"
    command = add_command(commands, "export", run, text)
    command.add_argument("run", type=Path, help="output folder of a train.py run")
    command.add_argument("output_dir", type=Path)
