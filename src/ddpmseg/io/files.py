"""Writes files and folders atomically, and computes digests of files."""

import fcntl
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, EISDIR, ENOSPC
from pathlib import Path
from secrets import token_hex

from ddpmseg.errors import DiskError

FULL = {ENOSPC, EDQUOT, EFBIG}
"""Errors of a disk, or of a user's share of it, that is full."""
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of files and folders that are being written."""
OUTPUT_DIR = "another `paths.output_dir`"
"""What `explain_unwritable` advises the programs `train` and `sweep` to choose."""


@contextmanager
def explain_unwritable(path: Path, elsewhere: str = "another folder") -> Iterator[None]:
    """Turn an OSError of the block, which writes to `path` or below it, into a DiskError.

    An error that names a file elsewhere, which the block may read, stays what it is.
    elsewhere: what to choose if the reason is not a full disk, such as "another `--output`".
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in FULL
        names = _names(error)
        if not is_full and not any(_is_related(name, path) for name in names):
            raise
        advice = f"Choose {elsewhere}."
        if is_full:
            advice = "Make room, and repeat the command: what is finished is kept."
        below = (name for name in names if name.absolute().is_relative_to(path.absolute()))
        raise DiskError(
            f"'{next(below, path)}' cannot be written to ({error.strerror}). {advice}"
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether the reason of a DiskError is a full disk, or a quota."""
    cause = error.__cause__
    return isinstance(error, DiskError) and isinstance(cause, OSError) and cause.errno in FULL


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    A reader never sees a half-written file, and the earlier file survives a failure and, if
    `durable`, a power cut. Every call uses a different temporary path, so that several processes
    may write the same file at once: the last one wins. Raises DiskError as `explain_unwritable`.
    """
    with explain_unwritable(path):
        unfinished = _unfinished(path)
        try:
            with _held(unfinished):
                yield unfinished
                if durable:
                    _sync(unfinished)
                unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Append to a file in UTF-8; if that fails, what was there before stays.

    Raises DiskError as `explain_unwritable`.
    """
    with explain_unwritable(path):
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a new folder beside `path`; rename it to `path` if the block succeeds.

    See `atomic_write`. Raises DiskError, and changes nothing, also if `path` exists and is not an
    empty folder.
    """
    with explain_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, path.name)
        unfinished = _unfinished(path)
        try:
            with _held(unfinished, is_folder=True):
                yield unfinished
                if durable:
                    for file in unfinished.rglob("*"):
                        if file.is_file():
                            _sync(file)
                unfinished.replace(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path, name: str = "", below: bool = False) -> None:
    """Remove what processes that were killed left unfinished in a folder.

    What a process still writes stays, and so does all of it on a disk without locks.

    Args:
        folder: it need not exist.
        name: of the file or folder whose beginnings to remove; all if empty.
        below: also in the folders below.
    """
    pattern = f".{glob.escape(name)}.*.tmp" if name else ".*.tmp"
    for path in folder.rglob(pattern) if below else folder.glob(pattern):
        if not UNFINISHED.fullmatch(path.name) or path.is_symlink():
            continue
        with suppress(OSError):  # it is held, or another process has removed it
            file = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(file)


def _unfinished(path: Path) -> Path:
    if not path.name:  # the root or the current folder, which have no name to put another beside
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    # Files of `tempfile` are readable only by their owner.
    return path.with_name(f".{path.name}.{token_hex(4)}.tmp")


@contextmanager
def _held(unfinished: Path, is_folder: bool = False) -> Iterator[None]:
    """Create a file or folder, and keep other processes from removing it until the block ends."""
    while True:
        if is_folder:
            unfinished.mkdir(exist_ok=True)
        file = os.open(unfinished, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # without locks nobody removes it
            fcntl.flock(file, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), unfinished.stat()):
                break
        os.close(file)  # it was removed between the two calls
    try:
        yield
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    """Flush the content of a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _names(error: OSError) -> list[Path]:
    """The files that an error names."""
    given = (error.filename, error.filename2)
    return [
        Path(os.fsdecode(name)) for name in given if isinstance(name, str | bytes | os.PathLike)
    ]


def _is_related(named: Path, path: Path) -> bool:
    """Whether `named` is beside or below `path`, or a folder above it."""
    beside, named = path.absolute().parent, named.absolute()
    return named.is_relative_to(beside) or beside.is_relative_to(named)
