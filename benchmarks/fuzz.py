"""`python -m benchmarks.fuzz`: wrong command lines by the hundred; counts tracebacks and hangs."""

import argparse
import contextlib
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from unittest.mock import patch

from benchmarks.command_lines import command_line, write_files
from benchmarks.guard import no_escape
from ddpmseg.__main__ import main as ddpmseg

LONGEST = 120.0
"""Seconds after which a command hangs."""
MADE = (
    ("train", "experiment=train/tiny", "paths.output_dir=run"),
    ("sweep", "experiment=sweep/tiny", "paths.output_dir=sweep"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a command: its exit status, 'traceback' or 'hang', and all it printed."""

    status: int | str
    text: str

    @property
    def is_sound(self) -> bool:
        return self.status in (0, 1, 2) and "Traceback" not in self.text


class _HangError(BaseException):
    """Beside all other exceptions, so that no program catches it."""


def run_command(words: Sequence[str], folder: Path) -> Outcome:
    """`ddpmseg WORDS` in `folder`, in this process."""
    printed = io.StringIO()
    status: int | str = "traceback"
    with (
        no_escape(),
        patch.dict(os.environ, HOME=str(folder), WANDB_MODE="offline"),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        _own_logging(),
    ):
        try:
            with _alarm():
                status = ddpmseg(list(words))
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except _HangError:
            status = "hang"
            printed.write(traceback.format_exc())
        except Exception:
            printed.write(traceback.format_exc())
    return Outcome(status, printed.getvalue())


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    """Raise `_HangError` in a block that takes longer than `LONGEST` seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _HangError

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers[:] = []
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


@contextlib.contextmanager
def copied(made: Path) -> Iterator[Path]:
    """A new folder with copies of a finished run and sweep and the other files that lines name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for work in ("run", "sweep"):
            shutil.copytree(made / work, folder / work)
        write_files(folder)
        yield folder


def fuzz(lines: int, seed: int) -> Counter[str]:
    """Try so many command lines, drawn by the seed; print those that are unsound."""
    counted, draw = Counter[str](), Random(seed)
    with tempfile.TemporaryDirectory() as made:
        write_files(Path(made))
        for words in MADE:
            done = run_command(words, Path(made))
            if done.status != 0:
                raise RuntimeError(done.text)
        for _ in range(lines):
            words = command_line(draw)
            with copied(Path(made)) as folder:
                outcome = run_command(words, folder)
            counted["commands"] += 1
            counted[f"of status {outcome.status}"] += 1
            if not outcome.is_sound:
                counted["hangs" if outcome.status == "hang" else "tracebacks"] += 1
                sys.stdout.write(f"{words!r}\n{outcome.status}: {outcome.text[-3000:]}\n")
                sys.stdout.flush()
    return counted


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 if any command ended in a traceback or hung."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--lines", type=int, default=300, help="command lines; default: 300")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    chosen = parser.parse_args(arguments)
    counted = fuzz(chosen.lines, chosen.seed)
    names = ["commands", "tracebacks", "hangs", *(name for name in sorted(counted) if " " in name)]
    sys.stdout.write(", ".join(f"{counted[name]} {name}" for name in names) + "\n")
    return int(counted["tracebacks"] + counted["hangs"] > 0)


if __name__ == "__main__":
    sys.exit(main())
