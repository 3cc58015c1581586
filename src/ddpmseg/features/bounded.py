"""A folder of bounded size that evicts the least recently used files."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

SLACK = 0.05
"""Share of the bound that eviction frees in addition, and that is written between two scans."""


class BoundedFolder:
    """Files whose sizes together stay within `max_bytes`.

    Only files whose whole name matches `names` are counted and removed. The time of last use is a
    file's modification time. The folder is scanned once, and again when the bound is near, so that
    several processes that write at the same time may exceed the bound by a twentieth each.
    """

    def __init__(self, folder: Path, names: re.Pattern[str], max_bytes: float) -> None:
        self.folder, self.names, self.max_bytes = folder, names, max_bytes
        # Bytes found by the last scan, and bytes written by this process since.
        self._scanned: int | None = None
        self._written = 0

    def make_room(self, num_bytes: int) -> bool:
        """Count a file that is about to be written, after evicting others if necessary.

        Returns False, and counts nothing, if the file is larger than the bound or no more files can
        be removed.
        """
        if num_bytes > self.max_bytes:
            return False
        if (
            self._scanned is None
            or self._scanned + self._written + num_bytes > self.max_bytes
            or self._written > SLACK * self.max_bytes
        ):
            self._scanned, self._written = self._evict(num_bytes), 0
            if self._scanned + num_bytes > self.max_bytes:
                return False
        self._written += num_bytes
        return True

    def touch(self, path: Path) -> None:
        """Mark a file as just used, unless it is gone or belongs to another user."""
        now = time.time_ns()
        try:
            os.utime(path, ns=(now, now))
        except OSError:
            return

    def _evict(self, num_bytes: int) -> int:
        """Make room for `num_bytes`; returns the bytes that remain in the folder."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total + num_bytes <= self.max_bytes:
            return total
        for _, size, path in files:
            if total + num_bytes <= (1 - SLACK) * self.max_bytes:
                break
            try:
                # Another process may have removed it first.
                path.unlink(missing_ok=True)
            except OSError:
                continue
            total -= size
        return total

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(time of last use in ns, bytes, path) of every file."""
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not self.names.fullmatch(entry.name):
                    continue
                try:
                    state = entry.stat()
                except FileNotFoundError:
                    continue
                yield state.st_mtime_ns, state.st_size, Path(entry.path)
