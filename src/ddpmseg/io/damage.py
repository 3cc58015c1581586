"""Damaged files of finished work: whatever is wrong with one, the user reads one sentence."""

import csv
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from ddpmseg.errors import ConfigError, UserError

DAMAGE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, RuntimeError, MemoryError, SyntaxError, EOFError),
    *(csv.Error, BadZipFile, zlib.error),
)
"""Errors from reading a file that does not hold what this package wrote. Of JSON that nests without
end comes a RecursionError, which is a RuntimeError."""


@contextmanager
def explain_damage(path: Path, remedy: str, kind: type[UserError] = ConfigError) -> Iterator[None]:
    """Turn an error of the block, which reads `path` and does nothing else, into a `kind`.

    remedy: the last sentence of the message: what restores the file.
    """
    try:
        yield
    except DAMAGE as error:
        raise kind(f"'{path}' is damaged ({reason_of(error)}). {remedy}") from error


def reason_of(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"it lacks {text}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return f"{text[:157]}..." if len(text) > 160 else text or type(error).__name__


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises one of `DAMAGE`."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"it holds no JSON object but {type(found).__name__}")
    return found


def checked_counts(value: Any) -> list[list[int]]:
    """A table of pixel counts, (K + 1) x K. Raises one of `DAMAGE` for anything else."""
    width = len(value[0])
    if len(value) != width + 1 or any(len(row) != width for row in value):
        raise ValueError(f"its counts are no table of {width + 1} x {width}")
    if not all(type(count) is int and 0 <= count < 2**62 for row in value for count in row):
        raise ValueError("its counts are not all whole numbers from 0 on")
    return value
