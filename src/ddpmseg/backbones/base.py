"""The base class of backbones: frozen networks read out at decoder blocks and timesteps."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpmseg.errors import ConfigError
from ddpmseg.settings import PartConfig

Hook = Literal["output", "input"]


@dataclass(frozen=True)
class BlockSpec:
    """Shapes of a decoder block's maps.

    `channels` and `stride` describe its output, `input_channels` and `input_stride` its input (in a
    UNet: previous block and skip connection, concatenated). Strides are whole numbers, in pixels of
    the network's input, see `Backbone.map_size`. `modules` describes its layers to people.
    """

    index: int
    channels: int
    stride: int
    input_channels: int
    input_stride: int
    modules: str

    def at(self, hook: Hook) -> tuple[int, int]:
        """(channels, stride) of the map read at `hook`."""
        if hook == "input":
            return self.input_channels, self.input_stride
        return self.channels, self.stride


class Backbone(nn.Module, ABC):
    """A frozen network, always in eval mode and without gradients.

    Attributes:
        name: shown in tables and messages.
        image_size: side of the images that the network was made for, in pixels.
        blocks: the readable blocks in the order of the forward pass; in a UNet the decoder's, 0 =
            deepest.
        dtype: dtype of the maps.
        num_timesteps: timesteps are 0 .. num_timesteps - 1. None for a network without timesteps,
            whose maps are those of the clean image.
        input_size: side in pixels to which the network resizes images, and to which strides refer.
            None if it takes images of any size.
        hooks: sides of a block that can be read.
        block_kind, block_order: what its blocks are and what their numbers mean, for people.
        resampling: how the network resizes images, 'bicubic' or 'bilinear'.
    """

    name: str
    image_size: int
    blocks: tuple[BlockSpec, ...]
    dtype: torch.dtype
    num_timesteps: int | None
    input_size: int | None = None
    hooks: tuple[Hook, ...] = ("output", "input")
    block_kind: str = "decoder block"
    block_order: str = "0 = deepest"
    resampling: str = "bicubic"
    checkpoint_sha256: str = ""
    """SHA-256 of the weight file; empty without one."""
    compiled: bool = False
    """Whether the first pass of a batch size is compiled, for a minute or more."""
    settings: PartConfig | None = None
    """What `ddpmseg.load_backbone` built it from; None for an object that was made otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._device_marker: Tensor
        self.register_buffer("_device_marker", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._device_marker.device

    def add_noise(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        noise: Float[Tensor, "n 3 h w"],
    ) -> Float[Tensor, "n 3 h w"]:
        """Draw x_t from q(x_t | x_0) in closed form; images in [-1, 1], noise from N(0, 1).

        This default is for networks without timesteps: it returns the clean images.
        """
        if self.num_timesteps is not None:
            raise NotImplementedError(f"{type(self).__name__} has timesteps but no `add_noise`")
        return images

    @abstractmethod
    def native_maps(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Float[Tensor, "n _ _ _"]]:
        """Maps of `blocks` for n pairs (x_t, t), each at its own resolution, in one forward pass.

        The pass stops at the last of these blocks. Maps have the dtype `dtype`.
        """

    def map_size(self, block: int, hook: Hook, image_size: int) -> int:
        """Side in pixels of a map, for images of `image_size` pixels."""
        return (self.input_size or image_size) // self.blocks[block].at(hook)[1]

    @property
    def default_blocks(self) -> tuple[int, ...]:
        """The blocks that are read unless others are chosen, ascending."""
        return tuple(block.index for block in self.blocks)

    def identity(self) -> dict[str, Any] | None:
        """Everything the maps depend on besides image, noise, timestep and hook, as JSON values.

        Networks of equal identity give equal maps, up to rounding between machines. None: do not
        cache the maps, because they are cheap or the network cannot be identified.
        """
        return None

    def identity_with(self, network: str, seed: int, **settings: Any) -> dict[str, Any]:
        """`identity` of a kind of network with these settings and the loaded weights.

        Their seed and the version of torch, whose generator drew them, identify untrained weights.
        """
        untrained = {"seed": seed, "torch": torch.__version__}
        return {
            "network": network,
            **settings,
            "weights": self.checkpoint_sha256 or untrained,
            "dtype": str(self.dtype),
            "device": self.device.type,
        }

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: a frozen network has no training mode."""
        return super().train(False)

    def freeze(self) -> "Backbone":
        self.requires_grad_(False)
        return self.train(False)

    def check(
        self, blocks: Collection[int], timesteps: Collection[int], hook: Hook = "output"
    ) -> None:
        """Raise ConfigError unless all blocks and timesteps exist and can be read at `hook`."""
        if hook not in self.hooks:
            raise ConfigError(
                f"`features.hook={hook}`: the blocks of backbone '{self.name}' are read at their "
                f"{' or '.join(self.hooks)} only."
            )
        for block in blocks:
            if not 0 <= block < len(self.blocks):
                raise ConfigError(
                    f"block {block} does not exist in backbone '{self.name}' "
                    f"({self.block_kind}s 0..{len(self.blocks) - 1}, {self.block_order}). "
                    "Change `features.blocks`."
                )
        for t in timesteps:
            if self.num_timesteps is not None and not 0 <= t < self.num_timesteps:
                raise ConfigError(
                    f"timestep {t} does not exist in backbone '{self.name}' "
                    f"(timesteps 0..{self.num_timesteps - 1}). Change `features.timesteps`."
                )

    def check_sides(self, images: Tensor, stride: int) -> None:
        """Raise ConfigError unless `stride` divides both sides of the images."""
        if images.shape[-1] % stride or images.shape[-2] % stride:
            raise ConfigError(
                f"backbone '{self.name}' needs image sides divisible by {stride}, "
                f"got {tuple(images.shape[-2:])}. Change `dataset.image_size`."
            )

    def resized(self, images: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 s s"]:
        """Resize images in [-1, 1] to `side` x `side` pixels, antialiased; a no-op at that size."""
        if images.shape[-2:] == (side, side):
            return images
        resized = F.interpolate(images, (side, side), mode=self.resampling, antialias=True)
        return resized.clamp(-1, 1)
