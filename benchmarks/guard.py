"""A process that writes below temporary folders only and meets no network, whatever it is given."""

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHANGED = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.symlink": 2,
           "os.link": 2, "os.chmod": 1, "os.truncate": 1, "shutil.rmtree": 1}  # fmt: skip
"""Event of `sys.audit` -> how many of its first arguments are paths of what it changes."""
LOOKS_UP = ("socket.getaddrinfo", "socket.gethostbyname")

_active: list[bool] = []
"""Empty before the first use of `no_escape`, and as Python ends; else whether it is in use."""


@contextmanager
def no_escape() -> Iterator[None]:
    """While the block runs, Python code gets OSError where it connects or writes elsewhere."""
    if not _active:
        _active.append(False)
        sys.addaudithook(_refuse)  # for good: it cannot be removed
    _active[0] = True
    try:
        yield
    finally:
        _active[0] = False


def _refuse(event: str, given: tuple[Any, ...]) -> None:
    if not any(_active):
        return
    # A connection to a path is one within this machine.
    if event in LOOKS_UP or (event == "socket.connect" and not isinstance(given[1], str)):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
    paths = given[: CHANGED.get(event, 0)]
    if event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        paths = given[:1]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)) and not _is_temporary(os.fsdecode(path)):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), os.fsdecode(path))


def _is_temporary(path: str) -> bool:
    whole = os.path.realpath(path)
    return whole == os.devnull or whole.startswith(os.path.realpath(tempfile.gettempdir()) + os.sep)
