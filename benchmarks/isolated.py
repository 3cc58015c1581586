"""Work in a process of its own, whose memory nothing else has touched."""

import gc
import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

from ddpmseg.runtime.logs import quiet_libraries
from ddpmseg.runtime.surroundings import keep_freed_memory

P = ParamSpec("P")
T = TypeVar("T")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def in_own_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function of a module in a new process; what it raises is raised here.

    The process starts from a server that has imported the libraries and computed nothing.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.memory", "benchmarks.scaling"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_quietly, work, *arguments, **options).result()


def _quietly(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    # Not sooner: the libraries set their levels when they are imported, with `work` at the latest.
    quiet_libraries()
    keep_freed_memory()
    return work(*arguments, **options)


class PeakMemory:
    """Largest resident memory since the construction, above that at the construction, in bytes.

    Where the system's record of the largest cannot be set back, it may hold an earlier peak: it
    then says too much, never too little.
    """

    def __init__(self) -> None:
        gc.collect()
        # Sandboxes may show the file and forbid to write it.
        with suppress(OSError):
            _CLEAR.write_text("5", encoding="utf-8")
        self.before = _status("VmRSS") if _STATUS.exists() else _peak()

    def above(self) -> int:
        return _peak() - self.before


def _peak() -> int:
    if _STATUS.exists():
        # Unlike getrusage's, this record does not begin with the peak of the parent process.
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024
