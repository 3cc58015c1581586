"""Any network of the timm library whose layers can be read: DINOv2, ConvNeXt, ResNet, ..."""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.precision import dtype_of
from ddpmseg.backbones.timm.models import (
    build_network,
    intermediates,
    layer_numbers,
    layers_of,
    library,
)
from ddpmseg.backbones.timm.weights import checkpoint_file, network_from_file
from ddpmseg.download.fetch import checked_sha256
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.weights.keywords import RANDOM


class TimmBackbone(Backbone):
    """A network of timm without its classifier; its blocks are its layers in forward order.

    Images are normalised as in training. There are no timesteps and no noise.

    Args:
        name: name of the network in the library, with or without the tag of its weights.
        checkpoint: a .safetensors or .pth file, 'hub', or 'random'.
        image_size, input_size, layers, norm: see `TimmConfig`.
        precision: precision of the network, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for a network, a size or layers that do not exist, CheckpointError for a file
    that does not fit the network, is not available, or has another digest.
    """

    hooks = ("output",)
    block_kind, block_order = "layer", "in forward order"

    def __init__(
        self,
        name: str,
        checkpoint: str,
        image_size: int,
        input_size: int | None = None,
        layers: object = None,
        norm: bool = True,
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        spec = layers_of(name, image_size, input_size, norm)
        self.name, self.image_size, self.seed, self.norm = name, image_size, seed, norm
        self.blocks, self.input_size = spec.blocks, spec.input_size
        self._default_blocks = layer_numbers(len(spec.blocks), layers, name)
        self.num_timesteps = None
        # What 'auto' means depends on the device, so the caller decides; '32' is right on any.
        self.dtype = dtype_of(precision)
        if checkpoint == RANDOM:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.network = build_network(name, spec.input_size)
        else:
            path = checkpoint_file(name, checkpoint)
            self.checkpoint_sha256 = checked_sha256(path, sha256, CheckpointError)
            self.network = network_from_file(name, spec.input_size, path)
        self.network.to(self.dtype, memory_format=torch.channels_last)
        # From [-1, 1] to the values the network was trained on.
        half = torch.full((3, 1, 1), 0.5)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", half / std, persistent=False)
        self.register_buffer("shift", (half - mean) / std, persistent=False)
        self.freeze()

    @property
    def default_blocks(self) -> tuple[int, ...]:
        return self._default_blocks

    def identity(self) -> dict[str, Any]:
        return self.identity_with(
            "timm",
            self.seed,
            timm=library().__version__,
            name=self.name,
            input_size=self.input_size,
            norm=self.norm,
        )

    @torch.inference_mode()
    def native_maps(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Float[Tensor, "n _ _ _"]]:
        """See `Backbone.native_maps`. Images are first resized to `input_size` (bicubic)."""
        if hook not in self.hooks:
            raise ConfigError(f"backbone '{self.name}' is read at its layers' outputs, not inputs.")
        inputs = self.preprocess(images).to(self.dtype, memory_format=torch.channels_last)
        indices = sorted(set(blocks))
        maps = intermediates(self.network, inputs, indices, self.norm)
        return dict(zip(indices, maps, strict=True))

    def preprocess(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        """Resize images in [-1, 1] to the network's input size, and normalise them. float32."""
        assert self.input_size is not None
        return self.resized(images, self.input_size) * self.scale + self.shift
