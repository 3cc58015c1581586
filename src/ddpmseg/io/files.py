"""Files and folders that appear complete or not at all, and what identifies their content."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpmseg.errors import DataError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place if the block succeeds.

    A reader never sees a half-written file, and an earlier one survives a failure.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`; rename it into place if the block succeeds.

    Raises OSError where `path` is there and not an empty folder, which then stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with scratch as folder:
        # A folder inside: the scratch folder itself is readable for its owner only.
        unfinished = Path(folder) / path.name
        unfinished.mkdir()
        yield unfinished
        unfinished.replace(path)


@contextmanager
def told_when_unwritable(folder: Path, advice: str) -> Iterator[None]:
    """Turn an OSError of the block, which writes below `folder`, into a DataError with `advice`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be written to ({error.strerror or error}). {advice}"
        ) from error
