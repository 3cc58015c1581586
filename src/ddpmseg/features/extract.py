"""Extraction: one forward pass per (image, timestep) gives the maps of all blocks."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.features.layout import FeatureLayout, feature_layout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.noise import NoiseKind, NoiseSource


class FeatureExtractor:
    """Turns images into native maps at the chosen blocks and timesteps.

    Args:
        backbone: frozen; runs on the device of its parameters.
        blocks, timesteps, hook: which maps, see `feature_layout`.
        noise, seed: which noise, see `NoiseSource`.
        image_size: side of the images, in pixels.
        batch_size: (image, timestep) pairs per forward pass.

    Raises ConfigError when the backbone has no such block or timestep.
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
    ) -> None:
        self.backbone = backbone
        self.blocks = sorted(blocks)
        self.hook: Hook = hook
        self.layout: FeatureLayout = feature_layout(backbone, blocks, timesteps, hook, image_size)
        self.timesteps = list(dict.fromkeys(spec.timestep for spec in self.layout.maps))
        self.noise = NoiseSource(noise, seed, image_size)
        self.batch_size = batch_size

    @property
    def images_per_pass(self) -> int:
        """Images whose timesteps fill one forward pass."""
        return max(1, self.batch_size // len(self.timesteps))

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]) -> NativeMaps:
        """Maps of images with values 0..255; `names` identify them to the noise."""
        maps = NativeMaps.empty(self.layout, len(images), self.backbone.dtype, self.backbone.device)
        self._fill(maps, 0, images, names)
        return maps

    @torch.inference_mode()
    def extract_all(
        self, batches: Iterable[tuple[Tensor, Sequence[str]]], num_images: int
    ) -> NativeMaps:
        """Maps of a whole set, on the CPU, from batches of (images, names)."""
        maps = NativeMaps.empty(self.layout, num_images, self.backbone.dtype, torch.device("cpu"))
        done = 0
        for images, names in batches:
            self._fill(maps, done, images, names)
            done += len(images)
        return maps

    def _fill(self, maps: NativeMaps, first: int, images: Tensor, names: Sequence[str]) -> None:
        """Write the maps of `images` into `maps` from image `first` on."""
        step = self.images_per_pass
        times_per_pass = max(1, self.batch_size // step)
        clean = images.to(self.backbone.device).float() / 127.5 - 1
        for start in range(0, len(images), step):
            some = slice(start, start + step)
            for t_start in range(0, len(self.timesteps), times_per_pass):
                timesteps = self.timesteps[t_start : t_start + times_per_pass]
                found = self._forward(clean[some], names[some], timesteps)
                rows = slice(first + start, first + start + len(names[some]))
                for (timestep, block), value in found.items():
                    index = self.timesteps.index(timestep) * len(self.blocks)
                    index += self.blocks.index(block)
                    maps.map(index)[rows] = value.permute(0, 2, 3, 1)

    def _forward(
        self, images: Tensor, names: Sequence[str], timesteps: Sequence[int]
    ) -> dict[tuple[int, int], Tensor]:
        """(timestep, block) -> (n, c, h, w) from one pass over all pairs, timestep-major."""
        count, device = len(images), images.device
        noise = torch.stack([self.noise(name, t) for t in timesteps for name in names]).to(device)
        times = torch.tensor(timesteps, device=device).repeat_interleave(count)
        x_0 = images.repeat(len(timesteps), 1, 1, 1)
        x_t = self.backbone.add_noise(x_0, times, noise)
        maps = self.backbone.native_maps(x_t, times, self.blocks, self.hook)
        return {
            (timestep, block): value[i * count : (i + 1) * count]
            for block, value in maps.items()
            for i, timestep in enumerate(timesteps)
        }
