"""What is shown instead of characters that the terminal cannot show.

A terminal that is not in UTF-8, or a name of a file that is not, must not end a command whose work
is done.
"""

import codecs
import io
import os
import sys

HANDLER = "ddpmseg.substitutes"
SUBSTITUTES = {
    "±": "+-",
    "…": "...",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
}
"""Character -> what it is written as in ASCII; others become '?'."""


def use_substitutes() -> None:
    """Let this process and those that it starts write any text to stdout and stderr."""
    codecs.register_error(HANDLER, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)
    if "utf" not in str(getattr(sys.stdout, "encoding", "utf-8")).lower():
        # For jobs in processes of their own, which do not know this handler.
        os.environ.setdefault("PYTHONIOENCODING", ":replace")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(SUBSTITUTES.get(character, "?") for character in text), error.end
