"""The base class of pretrained encoders: clean images, scaled colours, run block by block."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.precision import dtype_of
from ddpmseg.download.fetch import checked_sha256
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.encoder_files import EncoderFormat, Network, load_encoder
from ddpmseg.weights.keywords import RANDOM
from ddpmseg.weights.read import resolve_checkpoint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's colours in 0..1."""


class EncoderBackbone(Backbone):
    """A frozen encoder without timesteps: its maps are those of the clean image.

    A subclass sets `family`, `settings` (everything that determines the network), `stride` or
    `input_size`, `blocks` and `network` (see `with_weights`), and implements `iterate_maps`.

    Attributes:
        stride: divides the sides of images, unless the network resizes them to `input_size`.
        mean, std: of the colours in 0..1, by which training shifted and scaled images.
    """

    family: str
    stride: int
    settings: dict[str, Any]
    network: nn.Module
    mean, std = MEAN, STD
    block_kind, block_order = "encoder block", "in forward order"

    def __init__(self, name: str, image_size: int, precision: str, seed: int) -> None:
        super().__init__()
        self.name, self.image_size, self.seed = name, image_size, seed
        self.num_timesteps = None
        # What 'auto' means depends on the device, so the caller decides; '32' is right on any.
        self.dtype = dtype_of(precision)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        self._scale: Tensor
        self._shift: Tensor
        # ((x + 1) / 2 - mean) / std for x in [-1, 1].
        self.register_buffer("_scale", 0.5 / std, persistent=False)
        self.register_buffer("_shift", (0.5 - mean) / std, persistent=False)

    def with_weights(
        self,
        build: Callable[[], Network],
        checkpoint: str,
        file_format: EncoderFormat,
        sha256: str | None,
    ) -> Network:
        """Build the network with the weights of `checkpoint`, or with random ones."""
        if checkpoint != RANDOM:
            path = resolve_checkpoint(checkpoint)
            self.checkpoint_sha256 = checked_sha256(path, sha256, CheckpointError)
            return load_encoder(build, path, file_format, self.settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build()

    def identity(self) -> dict[str, Any]:
        return self.identity_with(self.family, self.seed, **self.settings)

    @torch.inference_mode()
    def native_maps(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Float[Tensor, "n _ _ _"]]:
        """See `Backbone.native_maps`. Images are scaled as in training, in fp32."""
        requested, deepest, maps = frozenset(blocks), max(blocks), {}
        scaled = torch.addcmul(self._shift, self.fit_input(images), self._scale)
        values = self.iterate_maps(scaled.to(self.dtype, memory_format=torch.channels_last))
        # The input of a block is the output of the block before it.
        for index, value in enumerate(values, start=0 if hook == "input" else -1):
            if index in requested:
                maps[index] = limit_size(value, images.shape[-2], images.shape[-1])
            if index == deepest:
                break
        return maps

    def fit_input(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 _ _"]:
        """Resize images to `input_size`, if set; else check their sides."""
        if self.input_size is None:
            self.check_sides(images, self.stride)
            return images
        return self.resized(images, self.input_size)

    def map_size(self, block: int, hook: Hook, image_size: int) -> int:
        """See `Backbone.map_size`; no map is larger than the image."""
        return min(super().map_size(block, hook, image_size), image_size)

    @abstractmethod
    def iterate_maps(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Tensor]:
        """Yield the map before the first block, then the map after each block.

        Images are scaled, in `dtype`, channels last. A block runs when its map is requested.
        """


def limit_size(
    value: Float[Tensor, "n c _ _"], height: int, width: int
) -> Float[Tensor, "n c _ _"]:
    """Resize a map to height x width pixels if it is larger.

    Bilinear without antialiasing, like the interpolation of pixel vectors (`NativeMaps`), which
    therefore stay the same, while memory does not grow with the network's own size.
    """
    size = (min(value.shape[-2], height), min(value.shape[-1], width))
    if value.shape[-2:] == size:
        return value
    return F.interpolate(value, size, mode="bilinear", align_corners=False)
