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


def typed(config_dir: Path, *overrides: str) -> "TrainConfig":
    """The configuration of these overrides, held against its types alone."""
    from ddpmseg.apps import checks, plan

    return plan.compose(config_dir, list(overrides), checks.typed_config)


def show(lines: Iterable[str]) -> int:
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
