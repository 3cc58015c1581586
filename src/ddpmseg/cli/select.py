"""`select`: which blocks and timesteps to read out together."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, show


def add(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.sweeps.select import select

        return show(select(**options).lines())

    text = "propose blocks and timesteps for a multi-feature head, from a sweep"
    command = add_command(commands, "select", run, text)
    command.add_argument("folder", type=Path, help="output folder of sweep.py")
    command.add_argument("--passes", type=int, default=3, help="timesteps at most")
    command.add_argument(
        "--channels", dest="max_channels", type=int, help="features of a pixel vector at most"
    )
    command.add_argument("--accelerator", default="auto")
