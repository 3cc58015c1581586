"""A folder that stays below a size: the files that were used least recently go first."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

SLACK = 0.05
"""Share of the bound that is freed beyond need, and written between two looks at the folder."""


class BoundedFolder:
    """Files whose sizes together stay within `max_bytes`.

    Only files whose whole name matches `names` are counted and removed. The time of last use is a
    file's modification time. The folder is looked at once and again when the bound is near, so
    several processes that write at the same time may exceed the bound by a twentieth each.
    """

    def __init__(self, folder: Path, names: re.Pattern[str], max_bytes: float) -> None:
        self.folder, self.names, self.max_bytes = folder, names, max_bytes
        # What lies there, as far as this process knows: what it saw last, and what it wrote since.
        self._seen: int | None = None
        self._written = 0

    def make_room(self, num_bytes: int) -> bool:
        """Count a file of that size which is about to be written; whether it fits.

        Removes the least recently used files where it would not. False, and nothing is counted,
        when it is larger than the bound or no more files can be removed.
        """
        if num_bytes > self.max_bytes:
            return False
        if (
            self._seen is None
            or self._seen + self._written + num_bytes > self.max_bytes
            or self._written > SLACK * self.max_bytes
        ):
            self._seen, self._written = self._evict(num_bytes), 0
            if self._seen + num_bytes > self.max_bytes:
                return False
        self._written += num_bytes
        return True

    def touch(self, path: Path) -> None:
        """Mark a file as just used, unless it is gone or not ours to change."""
        now = time.time_ns()
        try:
            os.utime(path, ns=(now, now))
        except OSError:
            return

    def _evict(self, num_bytes: int) -> int:
        """Bytes that are left in the folder after making room for `num_bytes` more."""
        found = sorted(self._files())
        total = sum(size for _, size, _ in found)
        if total + num_bytes <= self.max_bytes:
            return total
        for _, size, path in found:
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
