"""Several processes in one sweep folder: each timestep has one that computes it.

The operating system holds the locks, and drops them with the process: none outlives a kill.
"""

import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from ddpmseg.errors import ConfigError


class FolderLocks:
    """Lock files below `folder`/.locks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self, timesteps: Iterable[int]) -> Iterator[None]:
        """Hold these timesteps until the block ends; ConfigError when another process does."""
        with ExitStack() as until_done:
            for timestep in timesteps:
                lock = until_done.enter_context(self._file(f"t{timestep:04d}"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    owner = lock.read().strip() or "another process"
                    raise ConfigError(
                        f"t = {timestep} of '{self.folder}' is being computed by {owner}. Wait for "
                        "it and repeat the command, or choose other `sweep.timesteps`."
                    ) from error
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                lock.flush()
            yield

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait for the lock `name`, and hold it until the block ends."""
        with self._file(name) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _file(self, name: str) -> IO[str]:
        folder = self.folder / ".locks"
        folder.mkdir(exist_ok=True)
        file = (folder / name).open("a+")
        file.seek(0)
        return file
