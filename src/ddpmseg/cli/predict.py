"""`predict`: photographs segmented by the head of a finished run."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command


def add(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.runs.predict import predict

        predict(**options)
        return 0

    command = add_command(
        commands, "predict", run, "segment photographs with the head of a finished run"
    )
    command.add_argument("images", nargs="+", type=Path)
    command.add_argument("--run", required=True, type=Path, help="output folder of a train.py run")
    command.add_argument("--output-dir", type=Path, default=Path("outputs/predict"))
    command.add_argument("--accelerator", default="auto")
