"""Files and folders that appear complete or not at all, and what identifies their content."""

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
    """Give a temporary path beside `path`; rename it into place if the block succeeds.

    A reader never sees a half-written file, and an earlier one survives a failure and, if
    `durable`, a power cut. The temporary path is another each time, so that several processes may
    write the same file at once: the last one wins.
    """
    # Not by `tempfile`, whose files only their owner may read.
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    try:
        yield unfinished
        if durable:
            _sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_written_whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a new folder beside `path`; rename it into place if the block succeeds.

    As `written_whole`, but raises OSError where `path` is there and not an empty folder, which then
    stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with scratch as folder:
        # A folder inside: the scratch folder itself is readable for its owner only.
        unfinished = Path(folder) / path.name
        unfinished.mkdir()
        yield unfinished
        if durable:
            for file in unfinished.rglob("*"):
                if file.is_file():
                    _sync(file)
        unfinished.replace(path)


def _sync(path: Path) -> None:
    """Return once the content of a file is on the disk and no longer in memory alone."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def told_when_unwritable(folder: Path, advice: str) -> Iterator[None]:
    """Turn an OSError of the block, which writes below `folder`, into a DataError with `advice`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be written to ({error.strerror or error}). {advice}"
        ) from error
