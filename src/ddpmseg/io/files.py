"""Writes files and folders atomically, and computes digests of files."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from ddpmseg.errors import DataError


@contextmanager
def written_whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    A reader never sees a half-written file, and the earlier file survives a failure and, if
    `durable`, a power cut. Every call uses a different temporary path, so that several processes
    may write the same file at once: the last one wins.
    """
    # Files of `tempfile` are readable only by their owner.
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    try:
        yield unfinished
        if durable:
            _sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_written_whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a new folder beside `path`; rename it to `path` if the block succeeds.

    See `written_whole`. Raises OSError, and changes nothing, if `path` exists and is not an empty
    folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with scratch as folder:
        # A folder inside, since the scratch folder is readable only by its owner.
        unfinished = Path(folder) / path.name
        unfinished.mkdir()
        yield unfinished
        if durable:
            for file in unfinished.rglob("*"):
                if file.is_file():
                    _sync(file)
        unfinished.replace(path)


def _sync(path: Path) -> None:
    """Flush the content of a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def explain_unwritable(folder: Path, advice: str) -> Iterator[None]:
    """Turn an OSError of the block, which writes below `folder`, into a DataError with `advice`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be written to ({error.strerror or error}). {advice}"
        ) from error
