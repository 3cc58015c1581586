"""One GPU for each process of a multirun, whichever launcher started it.

No launcher for a single machine shares out its GPUs. Here each process takes the least used one
and keeps it until it ends: files locked by the operating system, which drops a lock with the
process that holds it, count who uses what.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import BaseFileLock

from ddpmseg.errors import DiskError
from ddpmseg.io.files import explain_unwritable
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_PER_GPU = 64
"""Processes on one GPU; beyond it nothing is chosen."""
_held: list[BaseFileLock] = []
"""Locks of this process, held until it ends."""


def take_gpu(accelerator: str) -> str | None:
    """Let CUDA see one GPU of several, from now to the end of this process; returns its name.

    None where there is no choice: no GPU or a single one, an `accelerator` (`trainer.accelerator`)
    that uses none, CUDA in use by this process already, a process that has chosen before, or, with
    a warning, no folder for the locks.
    """
    if _held or accelerator not in ("auto", "gpu", "cuda"):
        return None
    import torch

    # Counts by the driver's library, which leaves CUDA uninitialised.
    if torch.cuda.is_initialized() or torch.cuda.device_count() < 2:
        return None
    try:
        chosen = least_used(visible_gpus(torch.cuda.device_count()), lock_folder())
    except DiskError as error:
        log.warning("no GPU is chosen, so jobs share the first one: %s", error)
        return None
    if chosen is None:
        return None
    name, lock = chosen
    _held.append(lock)
    os.environ[VISIBLE] = name
    log.info("GPU %s", name)
    return name


def visible_gpus(count: int) -> list[str]:
    """The GPUs this process may use, named as in $CUDA_VISIBLE_DEVICES."""
    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in given.split(",") if name.strip()][:count]


def lock_folder() -> Path:
    """Of this machine and user. Raises DiskError if another user owns it, or it cannot be made."""
    folder = Path(tempfile.gettempdir()) / f"ddpmseg-gpus-{os.getuid()}"
    with explain_unwritable(folder, "another $TMPDIR"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DiskError(f"'{folder}' belongs to another user. Choose another $TMPDIR.")
    return folder


def least_used(gpus: Sequence[str], folder: Path) -> tuple[str, BaseFileLock] | None:
    """A GPU that no other process holds, else one that the fewest hold, with a lock on it.

    The release of the lock, or the end of the process, gives it back. None where all are full.
    """
    locks = FolderLocks(folder)
    for place in range(MOST_PER_GPU):
        for gpu in gpus:
            lock = locks.take(f"{gpu.replace('/', '_')}.{place}")
            if lock is not None:
                return gpu, lock
    return None
