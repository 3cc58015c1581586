"""The UNet and the diffusion process of the `guided_diffusion` package (openai/guided-diffusion).

This is the only module that imports the package.
"""

import warnings
from dataclasses import asdict
from typing import cast

import torch
from torch import nn

with warnings.catch_warnings():
    # The package decorates its checkpointing function with a deprecated alias.
    warnings.filterwarnings("ignore", message=".*custom_(fwd|bwd).*", category=FutureWarning)
    from guided_diffusion.gaussian_diffusion import GaussianDiffusion
    from guided_diffusion.nn import timestep_embedding
    from guided_diffusion.script_util import (
        create_gaussian_diffusion,
        create_model_and_diffusion,
        model_and_diffusion_defaults,
    )
    from guided_diffusion.unet import (
        AttentionBlock,
        QKVAttentionLegacy,
        ResBlock,
        UNetModel,
    )

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.backbones.guided_diffusion.flags import UNetFlags
from ddpmseg.errors import ConfigError

__all__ = [
    "AttentionBlock",
    "GaussianDiffusion",
    "QKVAttentionLegacy",
    "ResBlock",
    "UNetFlags",
    "UNetModel",
    "build_unet",
    "decoder_blocks",
    "sampling_process",
    "timestep_embedding",
    "use_half",
]


def build_unet(flags: UNetFlags) -> tuple[UNetModel, GaussianDiffusion]:
    """Build the network, initialised from torch's global generator, and its diffusion process.

    Raises ConfigError for a flag out of its range, and when the package rejects the flags.
    """
    flags.check("backbone.unet")
    try:
        return create_model_and_diffusion(**(model_and_diffusion_defaults() | asdict(flags)))
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"guided_diffusion cannot build a network with `backbone.unet`={asdict(flags)}: {error}"
        ) from error


def sampling_process(flags: UNetFlags, num_steps: int) -> GaussianDiffusion:
    """The diffusion process respaced to `num_steps` DDIM steps."""
    return create_gaussian_diffusion(
        steps=flags.diffusion_steps,
        learn_sigma=flags.learn_sigma,
        noise_schedule=flags.noise_schedule,
        rescale_timesteps=flags.rescale_timesteps,
        timestep_respacing=f"ddim{num_steps}",
    )


def decoder_blocks(unet: UNetModel) -> tuple[BlockSpec, ...]:
    """Describe `unet.output_blocks`, 0 = deepest (paper, section 3.1)."""
    stride = 2 ** (len(unet.channel_mult) - 1)
    specs = []
    for index, block in enumerate(unet.output_blocks):
        layers = list(block.children())
        first = cast(ResBlock, layers[0])
        input_stride = stride
        names = []
        for layer in layers:
            if isinstance(layer, AttentionBlock):
                names.append("attention")
            elif isinstance(layer, ResBlock) and not layer.updown:
                names.append("residual")
            else:
                names.append("upsample")
                stride //= 2
        channels, input_channels = cast(int, first.out_channels), cast(int, first.channels)
        specs.append(
            BlockSpec(index, channels, stride, input_channels, input_stride, "+".join(names))
        )
    return tuple(specs)


def use_half(unet: UNetModel, dtype: torch.dtype) -> None:
    """Cast convolutions to `dtype`, as the package does for fp16; other layers stay in fp32.

    Source: openai/guided-diffusion `UNetModel.convert_to_fp16`.
    """

    def cast(module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            module.to(dtype)

    for part in (unet.input_blocks, unet.middle_block, unet.output_blocks):
        part.apply(cast)
    unet.dtype = dtype
