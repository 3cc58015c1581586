"""What pretrained encoders share: clean images, scaled colours, one pass block by block."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.download.fetch import checked_sha256
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.encoder_files import EncoderFormat, Network, load_encoder
from ddpmseg.weights.read import PRECISIONS, resolve_checkpoint
from ddpmseg.weights.words import RANDOM

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours in 0..1."""


class EncoderBackbone(Backbone):
    """A frozen encoder: knows no timesteps, and its maps are those of the clean image.

    A subclass sets `family`, `settings` (all that shapes the network), `stride` or `input_size`,
    `blocks` and `network`, which `with_weights` makes, and runs it block by block in `passed`.

    Attributes:
        stride: sides of images must be divisible by it, where the network takes them as they are.
        mean, std: of the colours in 0..1, by which its training shifted and scaled images.
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
        self.dtype = PRECISIONS["32" if precision == "auto" else precision]
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
        """The network with the weights of `checkpoint`, or with initial ones for 'random'."""
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
        """See `Backbone.native_maps`. Images are scaled as the network was trained, in fp32."""
        wanted, deepest, maps = frozenset(blocks), max(blocks), {}
        scaled = torch.addcmul(self._shift, self.seen(images), self._scale)
        passed = self.passed(scaled.to(self.dtype, memory_format=torch.channels_last))
        # The input of a block is the output of the one before it.
        for index, value in enumerate(passed, start=0 if hook == "input" else -1):
            if index in wanted:
                maps[index] = reduced(value, images.shape[-2], images.shape[-1])
            if index == deepest:
                break
        return maps

    def seen(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 _ _"]:
        """Images as large as the network sees them: resized to `input_size` where there is one."""
        if self.input_size is None:
            self.check_sides(images, self.stride)
            return images
        return self.resized(images, self.input_size)

    def map_size(self, block: int, hook: Hook, image_size: int) -> int:
        """See `Backbone.map_size`; no map is larger than the image."""
        return min(super().map_size(block, hook, image_size), image_size)

    @abstractmethod
    def passed(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Tensor]:
        """Run block after block: yields the map before the first, then that after each.

        Images are scaled, in `dtype`, channels last. A block runs once the map after it is asked
        for.
        """


def reduced(value: Float[Tensor, "n c _ _"], height: int, width: int) -> Float[Tensor, "n c _ _"]:
    """A map on height x width pixels where it is larger than that, else as it is.

    Bilinear without antialiasing, as pixel vectors are interpolated (`NativeMaps`): they stay the
    same, and memory does not grow with the network's own size.
    """
    size = (min(value.shape[-2], height), min(value.shape[-1], width))
    if value.shape[-2:] == size:
        return value
    return F.interpolate(value, size, mode="bilinear", align_corners=False)
