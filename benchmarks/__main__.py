"""`python -m benchmarks run NAME ... | gpu | draw`: measure, and draw what was measured."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from benchmarks import gpu
from benchmarks.record import ROOT
from ddpmseg.errors import UserError
from ddpmseg.runtime.surroundings import keep_freed_memory

BENCHMARKS = ("extraction", "head", "memory", "grid", "scaling", "shares")
"""Modules, imported when they are run: `gpu` does without the packages that some of them need."""
RESULTS, TINY_RESULTS = ROOT / "benchmarks" / "results.csv", ROOT / "outputs" / "benchmarks.csv"

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if a part of `gpu` failed, 2 after an error that a user can put right."""
    chosen = _parser().parse_args(arguments)
    keep_freed_memory()  # as every program of the package does
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    try:
        if chosen.command == "draw":
            from benchmarks import draw  # needs matplotlib

            draw.draw(chosen.results or RESULTS, chosen.docs)
        elif chosen.command == "gpu":
            results = chosen.results or (TINY_RESULTS if chosen.tiny else RESULTS)
            return gpu.run(chosen.tiny, torch.device(chosen.device), results)
        else:
            _run(chosen)
    except UserError as error:
        log.error("%s", error)
        return 2
    return 0


def _run(chosen: argparse.Namespace) -> None:
    from benchmarks.cases import Options

    size = "tiny" if chosen.tiny else "full" if chosen.full else "small"
    results = chosen.results or (TINY_RESULTS if chosen.tiny else RESULTS)
    options = Options(size, chosen.repeats, torch.device(chosen.device), results)
    for name in chosen.names:
        log.info("%s (%s, %d repeats)", name, size, options.repeats)
        import_module(f"benchmarks.{name}").run(options)
        log.info("%s: rows in %s", name, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure and append rows to the results")
    run.add_argument("names", nargs="+", choices=BENCHMARKS, metavar="NAME",
                     help=", ".join(BENCHMARKS))  # fmt: skip
    sizes = run.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="toy size, in seconds")
    sizes.add_argument("--full", action="store_true", help="the paper's network at 256 pixels")
    run.add_argument("--repeats", type=_positive, default=5)
    run.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    card = commands.add_parser("gpu", help="tests and measurements of a GPU, in four minutes")
    card.add_argument("--tiny", action="store_true", help="toy size, in seconds")
    card.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    drawn = commands.add_parser("draw", help="write tables and figures from the newest rows")
    drawn.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of performance.md")
    for command in (run, card, drawn):
        command.add_argument("--results", type=Path, help="a file other than results.csv")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
