"""Several processes in one sweep folder: each timestep has one that computes it."""

import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from ddpmseg.errors import ConfigError
from ddpmseg.locks import FolderLocks


class TimestepLocks(FolderLocks):
    """The locks of a sweep folder."""

    @contextmanager
    def held(self, timesteps: Iterable[int]) -> Iterator[None]:
        """Hold these timesteps until the block ends; ConfigError when another process does."""
        with ExitStack() as until_done:
            for timestep in timesteps:
                lock = until_done.enter_context(self.file(f"t{timestep:04d}"))
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
