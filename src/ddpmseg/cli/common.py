"""What the commands share.

What a command needs is imported when it runs, so that `--help` need not wait for torch.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpmseg.cli.completion import add_settings
from ddpmseg.io.stdout import write_out
from ddpmseg.limits import LARGEST, LARGEST_SEED, no_path

if TYPE_CHECKING:
    from ddpmseg.config import TrainConfig


def add_command(
    commands: Any, name: str, run: Callable[..., int], text: str, add_help: bool = True
) -> argparse.ArgumentParser:
    """A command whose options are the arguments of `run`, which returns the exit status."""
    command = commands.add_parser(name, help=text, description=text, add_help=add_help)
    command.set_defaults(run_command=run)
    return command


def add_group(commands: Any, name: str, text: str) -> Any:
    """A command of commands: what `add_command` takes as its first argument."""
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(required=True, title="commands", metavar="COMMAND")


def whole(low: int = 1, high: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that takes a whole number in low..high."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"'{text[:40]}' must be a whole number in {low}..{high}"
            )
        return number

    return read


number = whole(-LARGEST)
"""The type of an option whose range the command itself checks."""
seed = whole(0, LARGEST_SEED)
"""The type of an option that takes a seed."""


def path(text: str) -> Path:
    """The type of an option that takes a path."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a file or a folder")
    if problem := no_path(text):
        raise argparse.ArgumentTypeError(f"'{text[:60]}...': {problem}")
    return Path(text)


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Let the command take the overrides of `train` and a folder of configuration files."""
    text = "as for ddpmseg train: group=choice, group.key=value ..."
    add_settings(command, "train", "overrides", text)
    add_config_dir(command)


def add_config_dir(command: argparse.ArgumentParser) -> None:
    text = "a folder of configuration files that hide those of the same name; default: conf"
    command.add_argument("--config-dir", type=path, help=text)


def add_accelerator(command: argparse.ArgumentParser) -> None:
    text = "where to compute: auto (CUDA or the CPU; default), cpu, gpu, cuda, mps (untested)"
    command.add_argument("--accelerator", default="auto", help=text)


def typed(config_dir: Path | None, *overrides: str) -> "TrainConfig":
    """The configuration of these overrides, held against its types alone."""
    from ddpmseg.composition import plan

    return plan.compose(config_dir, list(overrides))


def show(lines: Iterable[str]) -> int:
    write_out("\n".join(lines) + "\n")
    return 0
