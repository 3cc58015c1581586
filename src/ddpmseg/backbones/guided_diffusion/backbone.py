"""Any UNet of openai/guided-diffusion, read out at its decoder blocks."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.compiled import Compiled
from ddpmseg.backbones.guided_diffusion.fast import speed_up
from ddpmseg.backbones.guided_diffusion.load import load_weights
from ddpmseg.backbones.guided_diffusion.unet import (
    UNetFlags,
    build_unet,
    decoder_blocks,
    timestep_embedding,
    use_half,
)
from ddpmseg.backbones.precision import dtype_of
from ddpmseg.download.fetch import checked_sha256
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.keywords import RANDOM
from ddpmseg.weights.read import resolve_checkpoint


class GuidedDiffusionBackbone(Backbone):
    """A guided_diffusion UNet with pretrained weights, or with random ones as a control.

    Args:
        name: shown in tables and messages.
        unet: flags of the network.
        checkpoint: a .pt or .safetensors file with a bare state dict, 'bundled:NAME', or 'random'.
        precision: precision of the convolutions, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        compile: run the pass through torch.compile, see `Compiled`. The first pass of a network
            that this machine has not compiled yet takes a minute or more. The maps are equal up to
            rounding.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for flags that build no network, CheckpointError for a file that does not
    fit the network or has another digest.
    """

    def __init__(
        self,
        name: str,
        unet: UNetFlags,
        checkpoint: str,
        precision: str = "32",
        seed: int = 0,
        compile: bool = False,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.image_size = unet.image_size
        self.flags, self.seed = unet, seed
        # What 'auto' means depends on the device, so the caller decides; '32' is right on any.
        self.dtype = dtype_of(precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet, self.diffusion = build_unet(unet)
        if checkpoint != RANDOM:
            path = resolve_checkpoint(checkpoint)
            self.checkpoint_sha256 = checked_sha256(path, sha256, CheckpointError)
            load_weights(self.unet, path, "backbone.unet")
        self.blocks = decoder_blocks(self.unet)
        self.num_timesteps = self.diffusion.num_timesteps
        use_half(self.unet, self.dtype)
        speed_up(self.unet)
        self.freeze()
        self.compiled = compile
        self._run = Compiled(self._pass) if compile else self._pass

    def identity(self) -> dict[str, Any]:
        return self.identity_with("guided_diffusion", self.seed, unet=asdict(self.flags))

    def add_noise(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        noise: Float[Tensor, "n 3 h w"],
    ) -> Float[Tensor, "n 3 h w"]:
        return self.diffusion.q_sample(images, timesteps, noise)

    @torch.inference_mode()
    def native_maps(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Float[Tensor, "n _ _ _"]]:
        """See `Backbone.native_maps`. Layers run in the order of the package's `UNetModel`."""
        self.check_sides(images, self.blocks[0].input_stride)
        if self.diffusion.rescale_timesteps:
            # The package does the same around the network in training and sampling.
            timesteps = timesteps * (1000 / self.diffusion.num_timesteps)
        x_t = images.to(self.dtype, memory_format=torch.channels_last)
        return self._run(x_t, timesteps, frozenset(blocks), hook)

    def _pass(
        self, x_t: Tensor, timesteps: Tensor, blocks: frozenset[int], hook: Hook
    ) -> dict[int, Tensor]:
        """Maps of `blocks`; stops at the last of them."""
        unet, deepest = self.unet, max(blocks)
        embedding = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
        h, skips, maps = x_t, [], {}
        for block in unet.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = unet.middle_block(h, embedding)
        for index, block in enumerate(unet.output_blocks[: deepest + 1]):
            h = torch.cat([h, skips.pop()], dim=1)
            if hook == "input" and index in blocks:
                maps[index] = h
                if index == deepest:
                    break
            h = block(h, embedding)
            if hook == "output" and index in blocks:
                maps[index] = h
        return maps
