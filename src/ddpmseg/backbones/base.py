"""The contract of a backbone: a frozen network read out at decoder blocks and timesteps."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpmseg.errors import ConfigError

Hook = Literal["output", "input"]


@dataclass(frozen=True)
class BlockSpec:
    """What a decoder block promises about its maps.

    `channels` and `stride` describe its output, `input_channels` and `input_stride` what enters it
    (for a UNet: previous block and skip connection, concatenated). Strides are whole numbers, in
    pixels of the image as the network sees it: see `Backbone.map_size`. `modules` names its layers
    for people.
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
    """A frozen network. Always in eval mode, never with gradients.

    Attributes:
        name: shown in tables and messages.
        image_size: side of the images the network was made for, in pixels.
        blocks: legal blocks, in the order of the forward pass; of a UNet those of the decoder, 0 =
            deepest.
        dtype: of the maps.
        num_timesteps: legal timesteps are 0 .. num_timesteps - 1. None for a network that knows no
            timesteps: its maps are those of the clean image.
        input_size: side, in pixels, of the image as the network sees it, in which strides count,
            whatever the size of those it is given: it resizes them itself. None where it takes
            them as they are.
        hooks: where its blocks can be read.
        block_kind, block_order: what its blocks are and what their numbers mean, for people.
        resampling: how images are resized where the network itself does it, 'bicubic' or
            'bilinear'.
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
    """Digest of the weight file; empty where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self._where: Tensor
        self.register_buffer("_where", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._where.device

    def add_noise(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        noise: Float[Tensor, "n 3 h w"],
    ) -> Float[Tensor, "n 3 h w"]:
        """Draw x_t from q(x_t | x_0) in closed form; images in [-1, 1], noise from N(0, 1).

        Here for a network that knows no timesteps: the clean images.
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

        The pass stops at the deepest block that is needed. Maps have the dtype the network runs in.
        """

    def map_size(self, block: int, hook: Hook, image_size: int) -> int:
        """Side of a map of images of `image_size` pixels."""
        return (self.input_size or image_size) // self.blocks[block].at(hook)[1]

    @property
    def default_blocks(self) -> tuple[int, ...]:
        """The blocks that are meant where nobody chooses any, ascending."""
        return tuple(block.index for block in self.blocks)

    def identity(self) -> dict[str, Any] | None:
        """What the maps depend on besides the image, its noise, the timestep and the hook.

        Plain JSON values. Networks of equal identity give equal maps, up to rounding where they run
        on different machines. None: the maps cost too little to be kept, or cannot be told apart.
        """
        return None

    def identity_with(self, network: str, seed: int, **settings: Any) -> dict[str, Any]:
        """`identity` of a kind of network with these settings and the weights that are loaded.

        Untrained weights are told by their seed and by torch, whose generator drew them.
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
        """Stay in eval mode whatever is asked: a frozen network has no training mode."""
        return super().train(False)

    def freeze(self) -> "Backbone":
        self.requires_grad_(False)
        return self.train(False)

    def check(
        self, blocks: Collection[int], timesteps: Collection[int], hook: Hook = "output"
    ) -> None:
        """Raise ConfigError unless every block and timestep exists here and can be read so."""
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
        """Images in [-1, 1] on `side` x `side` pixels, antialiased; as they are where they are."""
        if images.shape[-2:] == (side, side):
            return images
        found = F.interpolate(images, (side, side), mode=self.resampling, antialias=True)
        return found.clamp(-1, 1)
