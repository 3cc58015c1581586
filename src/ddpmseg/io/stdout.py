"""What a command prints, where it may be that nobody can take it: a full disk, a closed pipe."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ddpmseg.errors import UserError

CLOSED_PIPE = 128 + 13
"""Exit status of a program whose reader has gone, as `head` does: that of signal 13, SIGPIPE."""


class OutputError(UserError):
    """The output of a command cannot be written to where it was sent."""


def write_out(text: str) -> None:
    """Write to the standard output. Raises OutputError; ends the process where nobody reads it."""
    with _explained():
        sys.stdout.write(text)
        sys.stdout.flush()


class OutputHandler(logging.StreamHandler):
    """Writes log lines to the standard output; one that cannot be written raises OutputError."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """See `logging.Handler`."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with _explained():
            raise error


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is left in its buffer would fail again as the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(CLOSED_PIPE)
        raise OutputError(
            f"the output cannot be written ({error.strerror}). Send it elsewhere."
        ) from error
