"""What the commands share.

What a command needs is imported when it runs: `--help` shall not wait for torch.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpmseg.config import TrainConfig


def add_command(
    commands: Any, name: str, run: Callable[..., int], text: str
) -> argparse.ArgumentParser:
    """A command whose options are the arguments of `run`, which returns the exit status."""
    command = commands.add_parser(name, help=text)
    command.set_defaults(run_command=run)
    return command


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Let the command take train.py's overrides and the folder of its configuration."""
    command.add_argument("overrides", nargs="*", help="as for train.py: group.key=value ...")
    command.add_argument("--config-dir", type=Path, default=Path("conf"))


def add_choice_of_runs(command: argparse.ArgumentParser, style: str) -> None:
    """Let the command take runs, what to choose of them, and the form of the table they become."""
    command.add_argument("paths", nargs="+", type=Path, help="run folders, or folders above them")
    command.add_argument(
        "--metric", default="miou", choices=("miou", "miou_present", "pixel_accuracy")
    )
    command.add_argument(
        "--where", action="append", default=[], metavar="KEY[!]=VALUE",
        help="only runs with this setting; either value where a key is named again",
    )  # fmt: skip
    command.add_argument(
        "--vary", action="append", default=[], metavar="KEY",
        help="only runs beside others that differ in this setting and, but for seeds, nothing else",
    )  # fmt: skip
    command.add_argument(
        "--over", action="append", default=[], metavar="KEY", help="average over this setting too"
    )
    command.add_argument(
        "--format", dest="style", default=style, choices=("text", "md", "csv", "latex")
    )
    command.add_argument("--output", type=Path, help="a file instead of stdout")


def typed(config_dir: Path, *overrides: str) -> "TrainConfig":
    """The configuration of these overrides, held against its types alone."""
    from ddpmseg.composition import checks, plan

    return plan.compose(config_dir, list(overrides), checks.typed_config)


def show(lines: Iterable[str]) -> int:
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
