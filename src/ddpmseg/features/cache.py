"""Native maps on disk, so that another run over the same images needs no forward passes.

A file holds the maps of one (image, timestep) at the blocks extracted so far. Its name is a digest
of everything that decides them: network, hook, noise, the image's pixels and timestep. Missing and
damaged maps are computed; the results of a run do not depend on the cache.
"""

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ddpmseg.backbones.base import Hook
from ddpmseg.errors import DiskError
from ddpmseg.features.bounded import BoundedFolder
from ddpmseg.features.noise import NoiseSource
from ddpmseg.io.files import atomic_write, explain_unwritable
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every name. Raise it when the layout of files or the computation of maps changes."""
NAMES = re.compile(r"\.?[0-9a-f]{32}_t\d+\.safetensors(\.([0-9a-f]+\.)?tmp)?")
"""Finished files, and unfinished ones of killed processes."""
LOCK_DIGITS = 3
"""Leading digits of a name that choose its lock. With 4096 locks, runs over different images rarely
wait for each other."""


class MapCache:
    """A folder of maps. Several processes may use it at once.

    Args:
        folder: created when the first file is written.
        max_bytes: limit of the files' total size; the least recently used are removed beyond it.

    Attributes:
        read_pairs, computed_pairs: numbers of (image, timestep) pairs that were read from the
            folder, and that had to be computed.

    Errors of the disk never end a run: they are logged once, and nothing more is written.
    """

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.read_pairs = self.computed_pairs = 0
        self._bounded = BoundedFolder(folder, NAMES, max_bytes)
        self._locks = FolderLocks(folder)
        self._writes, self._warned_too_large = True, False

    def __str__(self) -> str:
        pairs = self.read_pairs + self.computed_pairs
        return (
            f"{self.read_pairs} of {pairs} (image, t) pairs read from '{self.folder}', "
            f"{self.computed_pairs} computed"
        )

    def holds(self, name: str, blocks: Collection[int]) -> bool:
        """Whether a file of that name has all `blocks`; its maps are not read."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                return set(map(str, blocks)) <= set(file.keys())
        except (OSError, SafetensorError):
            return False

    def read(self, name: str, blocks: Collection[int]) -> dict[int, Tensor] | None:
        """Maps (size, size, c) of `blocks`, read-only; None unless the file has all of them.

        A damaged file is removed, with a warning.
        """
        maps = self._read(name, blocks)
        if maps is None or set(maps) < set(blocks):
            return None
        self._bounded.touch(self._path(name))
        self.read_pairs += 1
        return maps

    def write(self, name: str, maps: Mapping[int, Tensor]) -> None:
        """Write maps (size, size, c) of a pair that had to be computed.

        Other blocks of the file stay in it. Call it within `hold`.
        """
        self.computed_pairs += 1
        if not self._writes:
            return
        merged = {**(self._read(name) or {}), **maps}
        tensors = {str(block): value.cpu().contiguous() for block, value in merged.items()}
        content = save(tensors, {block: _checksum(value) for block, value in tensors.items()})
        if not self._bounded.make_room(len(content)):
            if not self._warned_too_large:
                log.warning(
                    "maps of a single image (%.3f GB) do not fit into '%s' within %.3f GB: they "
                    "are not kept. Raise `features.cache_gb` (in a multirun `multirun.share_gb`).",
                    *(len(content) / 1e9, self.folder, self.max_bytes / 1e9),
                )
            self._warned_too_large = True
            return
        try:
            # Not durable: a file that a power cut leaves incomplete fails its checksum.
            with atomic_write(self._path(name), durable=False) as unfinished:
                unfinished.write_bytes(content)
        except DiskError as error:
            if not isinstance(error.__cause__, FileNotFoundError):  # the folder was removed
                self._stop_writing(error)
        else:
            self._bounded.touch(self._path(name))

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[None]:
        """Lock these pairs until the block ends; waits for processes that compute them now."""
        with ExitStack() as until_done:
            if self._writes:
                try:
                    with explain_unwritable(self.folder):
                        self.folder.mkdir(parents=True, exist_ok=True)
                    locks = self._locks.hold(
                        dict.fromkeys((name[:LOCK_DIGITS] for name in names), "")
                    )
                    until_done.enter_context(locks)
                except DiskError as error:
                    self._stop_writing(error)
            yield

    def _read(self, name: str, blocks: Collection[int] | None = None) -> dict[int, Tensor] | None:
        """Maps of those `blocks` (None: all) that the file has; None without an intact file."""
        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                checksums = file.metadata() or {}
                keys = file.keys() if blocks is None else map(str, blocks)
                maps = {key: file.get_tensor(key) for key in keys if key in checksums}
            for key, value in maps.items():
                if _checksum(value) != checksums[key]:
                    raise ValueError(f"block {key} is not what was written")
            return {int(key): value for key, value in maps.items()}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            log.warning("'%s' is damaged (%s): its maps are computed again", path, error)
            try:
                with explain_unwritable(path):
                    path.unlink(missing_ok=True)
            except DiskError as unwritable:
                self._stop_writing(unwritable)
            return None

    def _stop_writing(self, error: DiskError) -> None:
        if self._writes:
            log.warning("maps are no longer kept in '%s': %s", self.folder, error)
        self._writes = False

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


class MapNames:
    """Names of an extractor's maps in the cache.

    The arguments are what decides a map besides the image and the timestep; `noise` is None for a
    network without noise. A name depends on the image's pixels, and on the image's name only if the
    noise does.
    """

    def __init__(
        self, network: Mapping[str, object], hook: Hook, noise: NoiseSource | None
    ) -> None:
        self.network, self.hook, self.noise = network, hook, noise

    def of_pairs(
        self,
        images: UInt8[Tensor, "n 3 s s"],
        image_names: Sequence[str],
        timesteps: Sequence[int],
    ) -> dict[tuple[int, int], str]:
        """(index of an image, timestep) -> name of their maps."""
        digests = [self._of_image(*pair) for pair in zip(images, image_names, strict=True)]
        return {(i, t): f"{digest}_t{t:04d}" for i, digest in enumerate(digests) for t in timesteps}

    def _of_image(self, image: Tensor, image_name: str) -> str:
        pixels = hashlib.sha256(image.cpu().contiguous().numpy().data)
        content = {
            "format": FORMAT,
            "network": self.network,
            "hook": self.hook,
            "noise": None if self.noise is None else self.noise.identity(image_name),
            "image": [list(image.shape), str(image.dtype), pixels.hexdigest()],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _checksum(value: Tensor) -> str:
    return f"{zlib.crc32(value.view(torch.uint8).numpy().data):08x}"
