"""Exclusive locks between processes: files in a folder's `.locks`, locked by the operating system.

The system releases a lock when the process that holds it ends, even if it is killed.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from errno import ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ddpmseg.errors import ConfigError
from ddpmseg.io.files import explain_unwritable

log = logging.getLogger(__name__)

WITHOUT_LOCKS = {ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP}
"""Errors of disks without locks, such as some network drives."""


class FolderLocks:
    """Named locks below `folder`, which must exist. The lock files are kept for the next holder.

    On a disk without locks, a single warning is logged and the caller continues as if it held the
    lock. If the lock files cannot be written, every method but `is_held` raises DiskError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def hold(self, locks: Mapping[str, str], refuse: str = "") -> Iterator[None]:
        """Hold locks until the block ends.

        Locks are taken in sorted order, so that processes that take all they need in one call
        cannot deadlock.

        Args:
            locks: name of a lock -> what its holder does, as in "'a.pt' is being fetched". While
                another process holds it, this sentence is logged with the holder. Empty: no log.
            refuse: advice to the user; if set, a lock held by another process raises ConfigError
                with it. Empty: wait.
        """
        with ExitStack() as until_done:
            for name, doing in sorted(locks.items()):
                lock = self._lock(name, signed=bool(doing))
                if not _take(lock):
                    owner = (
                        self._path(name).read_text(encoding="utf-8").strip() or "another process"
                    )
                    if refuse:
                        raise ConfigError(f"{doing} by {owner}. {refuse}")
                    if doing:
                        log.info("%s by %s: waiting", doing, owner)
                    lock.acquire()
                until_done.callback(lock.release)
            yield

    def take(self, name: str) -> BaseFileLock | None:
        """Take a lock until its `release` or the end of the process; None if another holds it.

        On a disk without locks no process holds it.
        """
        lock = self._lock(name)
        return lock if _take(lock) else None

    def is_held(self, name: str) -> bool:
        """Whether a process holds the lock now; True if that cannot be determined."""
        if not self._path(name).exists():
            return False
        try:
            with self._lock(name).acquire(blocking=False):
                return False
        except (Timeout, OSError):
            return True

    def _lock(self, name: str, signed: bool = False) -> BaseFileLock:
        # A soft lock is a plain file and would outlive its process.
        sign = _sign if signed else None
        return FileLock(self._path(name), fallback_to_soft=False, on_acquired=sign)

    def _path(self, name: str) -> Path:
        return self.folder / ".locks" / name


def _take(lock: BaseFileLock) -> bool:
    """Take the lock if it is free; returns whether it was. True on a disk without locks."""
    folder = Path(lock.lock_file).parent.parent
    try:
        with explain_unwritable(folder):
            lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _warn_once(folder, error.strerror)
    return True


def _sign(file: int) -> None:
    """Write the holder's process and host into a lock file."""
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


@cache
def _warn_once(folder: Path, reason: str) -> None:
    """Warn about a disk without locks, once per folder."""
    log.warning("'%s' has no locks (%s): start one command at a time there", folder, reason)
