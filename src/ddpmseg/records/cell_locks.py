"""Several processes in one sweep folder: each timestep has one that computes it."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from ddpmseg.errors import ConfigError
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)


class TimestepLocks(FolderLocks):
    """The locks of a sweep folder."""

    @contextmanager
    def held(self, timesteps: Iterable[int], wait: bool = False) -> Iterator[None]:
        """Hold these timesteps until the block ends.

        Where another process holds one: ConfigError, or with `wait` patience. They are taken in
        sorted order, so that processes never wait for each other in a circle.
        """
        with ExitStack() as until_done:
            for timestep in sorted(set(timesteps)):
                lock = until_done.enter_context(self.file(f"t{timestep:04d}"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    owner = lock.read().strip() or "another process"
                    if wait:
                        log.info("t = %d is being computed by %s: waiting", timestep, owner)
                        fcntl.flock(lock, fcntl.LOCK_EX)
                    else:
                        raise ConfigError(
                            f"t = {timestep} of '{self.folder}' is being computed by {owner}. Wait "
                            "for it and repeat the command, or choose other `sweep.timesteps`."
                        ) from error
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                lock.flush()
            yield
