"""What a program finds where it is started, made fit for it: no screen, no home, busy cores."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BACKEND = "MPLBACKEND"
CACHES = {"MPLCONFIGDIR": "matplotlib", "WANDB_CACHE_DIR": "wandb", "WANDB_CONFIG_DIR": "wandb"}
"""Environment variable of a library -> the name of its folder where the home is none."""

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPINS = "3000"
"""Looks at a barrier before a thread sleeps."""
MALLOC = ("MALLOC_", "GLIBC_TUNABLES")
TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of glibc's `mallopt` (malloc.h)."""


def draw_without_window() -> None:
    """Let matplotlib, where it is not loaded yet, draw for files alone. For programs only.

    A notebook hands the name of its own backend down to the programs that it starts, in whose
    environment that backend need not exist. In a notebook itself nothing changes.
    """
    if "matplotlib" not in sys.modules:
        os.environ[BACKEND] = "agg"


def wait_without_spinning() -> None:
    """Let a thread that waits for the others give up its core soon. For programs, before torch.

    OpenMP lets it spin for milliseconds, in which it holds up those that it waits for wherever
    other work wants the cores: a pass of the bundled network took six times as long on two busy
    cores. On idle ones a timestep of a sweep takes 6.5 s instead of 7. Variables of the user's own
    stay.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ[WAITING[0]] = SPINS


def keep_freed_memory() -> None:
    """Let the C library use freed memory again instead of giving it back. For programs.

    Glibc gives back every block of 32 MB and more, and the system clears it anew for the next one:
    a step of the paper's ensemble, whose gradients have 43 MB, took 46 ms instead of 32. Variables
    of the user's own stay.
    """
    if sys.platform != "linux" or any(name.startswith(MALLOC) for name in os.environ):
        return
    # Other C libraries than glibc have no such function.
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(MMAP_MAX, 0)
        set_option(TRIM_THRESHOLD, 2**31 - 1)


def caches_without_home() -> None:
    """Give the libraries that write below the home a folder of this user's, if home takes none.

    In a container or on a node of a cluster the home may be missing or read-only.
    """
    if home_is_writable():
        return
    for variable, name in CACHES.items():
        folder = Path(tempfile.gettempdir()) / f"ddpmseg-{os.getuid()}" / name
        if variable not in os.environ:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.environ[variable] = str(folder)


def home_is_writable() -> bool:
    """Whether files can be made below the home folder, which may have to be made itself."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  (Path.expanduser raises without a home)
    existing = next((path for path in (home, *home.parents) if path.exists()), None)
    if not home.is_absolute() or existing is None or not existing.is_dir():
        return False
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """While the block runs, the environment variable has this value, if it had none."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
