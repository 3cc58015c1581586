"""Locks between processes: files that the operating system locks.

It drops a lock with the process that holds it: none outlives a kill.
"""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


class FolderLocks:
    """Lock files below `folder`/.locks. They stay there: a name is reused, never removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def alone(self, *names: str, told: str = "") -> Iterator[None]:
        """Wait for the locks of these names, and hold them until the block ends.

        They are taken in sorted order. So processes that each ask for all they need in one call
        never wait for each other in a circle. `told` is logged when another process holds one.
        Raises OSError where the disk has no locks.
        """
        with ExitStack() as until_done:
            for name in sorted(set(names)):
                lock = until_done.enter_context(self.file(name))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if told:
                        log.info(told)
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def is_held(self, name: str) -> bool:
        """Whether a process holds the lock of that name now. Raises OSError as `alone`."""
        if not (self.folder / ".locks" / name).exists():
            return False
        with self.file(name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def file(self, name: str) -> IO[str]:
        """The lock file `name`, open at its start and not locked."""
        folder = self.folder / ".locks"
        folder.mkdir(exist_ok=True)
        file = (folder / name).open("a+")
        file.seek(0)
        return file
