"""How a long program shows where it is: a bar on a terminal, a line per piece elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping

from tqdm.auto import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Counts forecast seconds of work, so that the rest of the time is right from the beginning.

    Args:
        pieces: for every piece of work the forecast seconds of its stages.
        show_bar: a bar; None: only on a terminal. Without a bar every piece logs a line.
    """

    def __init__(self, pieces: list[Mapping[str, float]], show_bar: bool | None = None) -> None:
        self.pieces = pieces
        self.total = sum(sum(piece.values()) for piece in pieces)
        self.finished = 0
        self.started = time.monotonic()
        self._bar = tqdm(
            total=self.total,
            disable=not (sys.stderr.isatty() if show_bar is None else show_bar),
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left",
        )

    def advance(self, stage: str, share: float) -> None:
        """Some share of a stage of the current piece is done."""
        self._bar.update(self.pieces[self.finished][stage] * share)

    def finish(self, message: str) -> None:
        """The current piece is done; `message` says what came of it."""
        self.finished += 1
        done = sum(sum(piece.values()) for piece in self.pieces[: self.finished])
        left = (time.monotonic() - self.started) * (self.total - done) / done
        self._bar.n = done
        self._bar.set_description(message, refresh=True)
        if self._bar.disable:
            log.info(
                "%s (%d of %d, %s left)", message, self.finished, len(self.pieces), duration(left)
            )

    def close(self) -> None:
        self._bar.close()


def duration(seconds: float) -> str:
    """Such as '42 s', '3 min 5 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
