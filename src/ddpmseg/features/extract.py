"""Extracts native maps: one forward pass per (image, timestep) gives the maps of all blocks."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from itertools import groupby

import torch
from jaxtyping import UInt8
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.precision import name_of
from ddpmseg.errors import FeatureError
from ddpmseg.features.cache import MapCache, MapNames
from ddpmseg.features.layout import FeatureLayout, feature_layout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.noise import NoiseKind, NoiseSource

CPU = torch.device("cpu")
Pair = tuple[int, int]
"""(index of an image in the batch, timestep)"""


class FeatureExtractor:
    """Turns images into native maps at the chosen blocks and timesteps.

    Args:
        backbone: frozen; runs on the device of its parameters.
        blocks, timesteps, hook: which maps, see `feature_layout`.
        noise, seed: which noise, see `NoiseSource`.
        image_size: side of the images, in pixels.
        batch_size: (image, timestep) pairs per forward pass.
        cache: keeps maps from one run to the next; unused for a network without identity.
        kept_blocks: blocks that the cache keeps of a computed pair besides `blocks`; those that the
            network does not have are ignored.

    Attributes:
        num_passes: forward passes so far.
        computed_pairs, read_pairs: numbers of (image, timestep) pairs that were computed, and that
            were read from the cache.

    Raises ConfigError when the backbone has no such block or timestep. Extracting raises
    FeatureError if the first maps of a block and timestep hold values that are not finite.
    """

    def __init__(
        self,
        backbone: Backbone,
        blocks: Sequence[int],
        timesteps: Sequence[int],
        *,
        image_size: int,
        hook: Hook = "output",
        noise: NoiseKind = "shared",
        seed: int = 0,
        batch_size: int = 16,
        cache: MapCache | None = None,
        kept_blocks: Sequence[int] = (),
    ) -> None:
        self.backbone = backbone
        self.blocks = sorted(blocks)
        self.hook: Hook = hook
        self.layout: FeatureLayout = feature_layout(backbone, blocks, timesteps, hook, image_size)
        self.timesteps = self.layout.timesteps
        self.noise = NoiseSource(noise, seed, image_size)
        self.batch_size = batch_size
        network = backbone.identity()
        self.cache = None if network is None else cache
        noisy = backbone.num_timesteps is not None
        self._map_names = MapNames(network or {}, hook, self.noise if noisy else None)
        self._computed_blocks = self.blocks
        if self.cache is not None:
            available = {block.index for block in backbone.blocks}
            self._computed_blocks = sorted({*self.blocks, *(available & set(kept_blocks))})
        self.num_passes = self.computed_pairs = self.read_pairs = 0
        self._found_finite: set[int] = set()

    @property
    def images_per_pass(self) -> int:
        """Number of images whose timesteps fill one forward pass."""
        return max(1, self.batch_size // len(self.timesteps))

    def without_cache(self) -> "FeatureExtractor":
        """The same without a cache, and with counts of its own."""
        other = copy(self)
        other.cache, other._computed_blocks = None, self.blocks
        other.num_passes = other.computed_pairs = other.read_pairs = 0
        other._found_finite = set()
        return other

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]) -> NativeMaps:
        """Maps of images with values 0..255. The noise may depend on their `names`."""
        maps = NativeMaps.empty(self.layout, len(images), self.backbone.dtype, self.backbone.device)
        self._fill(maps, 0, images, names)
        return maps

    @torch.inference_mode()
    def extract_all(
        self,
        batches: Iterable[tuple[Tensor, Sequence[str]]],
        num_images: int,
        device: torch.device = CPU,
    ) -> NativeMaps:
        """Maps of a whole set, on `device`, from batches of (images, names)."""
        maps = NativeMaps.empty(self.layout, num_images, self.backbone.dtype, device)
        first = 0
        for images, names in batches:
            self._fill(maps, first, images, names)
            first += len(images)
        return maps

    def num_missing(self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]) -> int:
        """Number of (image, timestep) pairs that are not in the cache."""
        pairs, cache = self._pairs(len(images)), self.cache
        if cache is None:
            return len(pairs)
        keys = self._cache_keys(images, names)
        return sum(not cache.holds(keys[pair], self.blocks) for pair in pairs)

    def _fill(self, maps: NativeMaps, first: int, images: Tensor, names: Sequence[str]) -> None:
        """Write the maps of `images` into `maps`, starting at its image `first`."""
        keys = self._cache_keys(images, names)
        pairs = self._read(maps, first, self._pairs(len(images)), keys)
        if not pairs:
            return
        clean = images.to(self.backbone.device).float() / 127.5 - 1
        per_pass = min(self.batch_size, self.images_per_pass * len(self.timesteps))
        for start in range(0, len(pairs), per_pass):
            batch = pairs[start : start + per_pass]
            with self._hold(batch, keys):
                # Another process may have computed them while this one waited.
                batch = self._read(maps, first, batch, keys)
                if batch:
                    outputs = self._forward(clean, names, batch)
                    self._write(maps, first, batch, outputs, keys)

    def _pairs(self, num_images: int) -> list[Pair]:
        """All pairs in the order of forward passes, timestep-major within each."""
        step = self.images_per_pass
        return [
            (image, timestep)
            for start in range(0, num_images, step)
            for timestep in self.timesteps
            for image in range(start, min(start + step, num_images))
        ]

    def _forward(
        self, images: Tensor, names: Sequence[str], pairs: Sequence[Pair]
    ) -> dict[int, Tensor]:
        """Block -> maps (n, c, h, w) of n pairs, from one forward pass."""
        noise = self.noise.of_pairs([(names[i], t) for i, t in pairs], images.device)
        times = torch.tensor([t for _, t in pairs], device=images.device)
        x_t = self.backbone.add_noise(images[[i for i, _ in pairs]], times, noise)
        self.num_passes += 1
        self.computed_pairs += len(pairs)
        with _full_float32():
            return self.backbone.native_maps(x_t, times, self._computed_blocks, self.hook)

    def _write(
        self,
        maps: NativeMaps,
        first: int,
        pairs: Sequence[Pair],
        outputs: dict[int, Tensor],
        keys: dict[Pair, str],
    ) -> None:
        """Copy the outputs of a forward pass over `pairs` into `maps`, and into the cache."""
        self._check_finite(pairs, outputs)
        channels_last = {block: value.permute(0, 2, 3, 1) for block, value in outputs.items()}
        for images, timestep, columns in _runs(pairs):
            rows = slice(first + images.start, first + images.stop)
            for block in self.blocks:
                maps.map(self._index(timestep, block))[rows] = channels_last[block][columns]
        if self.cache is not None:
            for column, pair in enumerate(pairs):
                pair_maps = {block: value[column] for block, value in channels_last.items()}
                self.cache.write(keys[pair], pair_maps)

    def _check_finite(self, pairs: Sequence[Pair], outputs: dict[int, Tensor]) -> None:
        """Look at the maps of timesteps that no pass had before: later passes need not wait."""
        for _, timestep, columns in _runs(pairs):
            if timestep in self._found_finite:
                continue
            finite = torch.stack([maps[columns].isfinite().all() for maps in outputs.values()])
            for block, whole in zip(outputs, finite.tolist(), strict=True):
                if not whole:
                    raise FeatureError(self._not_finite(block, timestep))
            self._found_finite.add(timestep)

    def _not_finite(self, block: int, timestep: int) -> str:
        precision = name_of(self.backbone.dtype)
        when = "" if self.layout.timeless else f" at t = {timestep}"
        map_name = f"the map of block {block}{when} of backbone '{self.backbone.name}'"
        if precision == "32":
            return (
                f"{map_name} holds values that are not finite, in 32 bits: no head can be fitted "
                "to it. Check the weights (`backbone.checkpoint`), or leave the block out of "
                "`features.blocks`."
            )
        return (
            f"{map_name} holds values that are not finite in `backbone.precision={precision}`: the "
            "network leaves the range of these 16 bits. Set `backbone.precision=32`."
        )

    def _read(
        self, maps: NativeMaps, first: int, pairs: list[Pair], keys: dict[Pair, str]
    ) -> list[Pair]:
        """Copy the pairs that the cache has into `maps`; returns the others."""
        if self.cache is None:
            return pairs
        missing = []
        for image, timestep in pairs:
            cached = self.cache.read(keys[image, timestep], self.blocks)
            if cached is None:
                missing.append((image, timestep))
                continue
            self.read_pairs += 1
            for block, value in cached.items():
                maps.map(self._index(timestep, block))[first + image] = value
        return missing

    def _cache_keys(self, images: Tensor, names: Sequence[str]) -> dict[Pair, str]:
        """Pair -> its name in the cache; empty without a cache."""
        if self.cache is None:
            return {}
        return self._map_names.of_pairs(images, names, self.timesteps)

    def _hold(self, pairs: Sequence[Pair], keys: dict[Pair, str]) -> AbstractContextManager[None]:
        return nullcontext() if self.cache is None else self.cache.hold(keys[p] for p in pairs)

    def _index(self, timestep: int, block: int) -> int:
        """Index of a map in the layout."""
        return self.timesteps.index(timestep) * len(self.blocks) + self.blocks.index(block)


def _runs(pairs: Sequence[Pair]) -> Iterator[tuple[slice, int, slice]]:
    """(images, timestep, positions in `pairs`) of runs of consecutive images at one timestep."""
    for (timestep, _), run in groupby(
        enumerate(pairs), key=lambda item: (item[1][1], item[1][0] - item[0])
    ):
        members = list(run)
        position, (image, _) = members[0]
        count = len(members)
        yield slice(image, image + count), timestep, slice(position, position + count)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Compute float32 convolutions in full precision; by default torch uses TF32 on a GPU.

    A user who sets 32 bits wants exact maps: 16 bits are faster than TF32 and as accurate.
    """
    default = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = default
