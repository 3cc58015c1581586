"""Small commands beside the programs: python -m ddpmseg {predict,compare,report,data,...}."""

import argparse
import logging
import sys

from ddpmseg.cli import (
    check_backbone,
    compare,
    dashboard,
    data,
    export,
    jobs,
    plan,
    predict,
    report,
    robustness,
    sample,
    select,
    table,
    weights,
)
from ddpmseg.errors import UserError

COMMANDS = (
    predict,
    plan,
    export,
    table,
    compare,
    report,
    robustness,
    select,
    sample,
    dashboard,
    data,
    weights,
    check_backbone,
    jobs,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser("python -m ddpmseg", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for module in COMMANDS:
        module.add(commands)
    options = vars(parser.parse_args(arguments))
    run = options.pop("run_command")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return run(**options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
