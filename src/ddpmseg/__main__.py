"""What a diffusion model knows about an image: train a head, sweep a network, look at results."""

import argparse
import logging
import os
import sys

from ddpmseg.cli import compare, completion, data, programs, runs, sweeps, weights
from ddpmseg.cli.substitutes import use_substitutes
from ddpmseg.command_line import PROGRAMS
from ddpmseg.errors import UserError
from ddpmseg.io.stdout import OutputHandler, write_out
from ddpmseg.runtime.logs import quiet_libraries
from ddpmseg.runtime.surroundings import (
    draw_without_window,
    keep_freed_memory,
    wait_without_spinning,
)

OVERRIDES = "overrides"
"""The argument of a command that takes settings as `train` does."""
COMMANDS = (
    programs.add,
    runs.add_before,
    runs.add_after,
    sweeps.add,
    compare.add,
    data.add,
    weights.add,
)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count signals."""


def parser() -> argparse.ArgumentParser:
    """Of all commands, in the order in which a user meets them."""
    parser = argparse.ArgumentParser("ddpmseg", description=__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, title="commands", metavar="COMMAND"
    )
    for add in COMMANDS:
        add(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for a mistake of the user's, 130 after Ctrl-C."""
    use_substitutes()
    commands = parser()
    if "_ARGCOMPLETE" in os.environ:
        completion.answer(commands)
    try:
        options = vars(_parse(commands, arguments))
        run = options.pop("run_command")
        quiet_libraries()
        draw_without_window()
        wait_without_spinning()
        keep_freed_memory()
        if options.pop("command") not in PROGRAMS:  # whose logging Hydra configures
            logging.basicConfig(
                level=logging.INFO, format="%(message)s", handlers=[OutputHandler()]
            )
        return run(**options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _parse(commands: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command; overrides may stand before and after its options."""
    try:
        options, left_over = commands.parse_known_args(arguments)
    except SystemExit:
        write_out("")  # the help, which argparse leaves in the buffer
        raise
    if not left_over:
        return options
    if not hasattr(options, OVERRIDES) or any(
        word.startswith("-") or "=" not in word for word in left_over
    ):
        commands.error(f"unrecognized arguments: {' '.join(left_over)}")
    setattr(options, OVERRIDES, [*getattr(options, OVERRIDES), *left_over])
    return options


if __name__ == "__main__":
    sys.exit(main())
