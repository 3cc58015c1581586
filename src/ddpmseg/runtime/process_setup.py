"""The state that belongs to a whole process: set once, before it computes anything."""

import os
from pathlib import Path

from ddpmseg.runtime.gpus import take_gpu
from ddpmseg.runtime.logs import quiet_libraries
from ddpmseg.runtime.surroundings import caches_without_home, keep_freed_memory


def process_setup(cache_dir: str, accelerator: str, share_gpus: bool) -> None:
    """Set what holds until the process ends. For entry points: nothing else calls it.

    Hints of libraries are silenced, freed memory is kept, compiled kernels go to `kernels/` below
    `cache_dir` (`paths.cache_dir`) unless TORCHINDUCTOR_CACHE_DIR says otherwise, and with
    `share_gpus` CUDA sees one GPU, the least used one, where `accelerator` (`trainer.accelerator`)
    wants any.
    """
    quiet_libraries()
    caches_without_home()
    keep_freed_memory()  # in the processes of a launcher, too
    kernels = Path(os.path.expanduser(cache_dir)) / "kernels"  # noqa: PTH111  (there may be no home)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kernels))
    if share_gpus:
        take_gpu(accelerator)
