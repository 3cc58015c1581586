"""Converts settings and parameters of a guided_diffusion UNet to diffusers' `UNet2DModel`.

Parameters are only renamed, reshaped and reordered.
Sources: openai/guided-diffusion `UNetModel`, diffusers `UNet2DModel` and `DDPMScheduler`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ddpmseg.backbones.guided_diffusion.unet import (
    AttentionBlock,
    UNetFlags,
    UNetModel,
    build_unet,
)
from ddpmseg.errors import ConfigError

NORM_GROUPS, NORM_EPS = 32, 1e-5
"""Groups and epsilon of every normalisation in guided_diffusion."""
_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


@dataclass(frozen=True)
class Attention:
    """Names of an attention layer in both networks."""

    guided: str
    unet2d: str
    heads: int


def unet2d_config(flags: UNetFlags) -> dict[str, Any]:
    """The `config.json` of the same network. Raises ConfigError if diffusers has no equal."""
    unet = _meta_network(flags)
    problems = []
    if unet.channel_mult[0] != 1:
        problems.append(
            f"its first level has {unet.channel_mult[0]} times `num_channels`={flags.num_channels} "
            "channels, but UNet2DModel embeds the timestep in as many as the first level has"
        )
    if flags.rescale_timesteps and flags.diffusion_steps != 1000:
        problems.append(
            f"it takes its {flags.diffusion_steps} timesteps rescaled to 1000 "
            "(`rescale_timesteps`), which no scheduler of diffusers does"
        )
    layers = [module for module in unet.modules() if isinstance(module, AttentionBlock)]
    widths = sorted({layer.channels // layer.num_heads for layer in layers})
    if len(widths) > 1 and any(layer.num_heads > 1 for layer in layers):
        problems.append(
            f"its attention heads have {', '.join(map(str, widths))} channels (`num_heads`), but "
            "UNet2DModel has one width for all (`num_head_channels`)"
        )
    if problems:
        listed = "\n  ".join(problems)
        raise ConfigError(f"the network has no equal in diffusers:\n  {listed}")
    attends = [2**level in unet.attention_resolutions for level in range(len(unet.channel_mult))]
    down, up = _block_types(attends, flags.resblock_updown)
    resampling = "resnet" if flags.resblock_updown else "conv"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": flags.image_size,
        "in_channels": 3,
        "out_channels": 6 if flags.learn_sigma else 3,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,  # cosines first
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [int(m * flags.num_channels) for m in unet.channel_mult],
        "layers_per_block": flags.num_res_blocks,
        "downsample_padding": 1,
        "downsample_type": resampling,
        "upsample_type": resampling,
        "dropout": flags.dropout,
        "act_fn": "silu",
        "attention_head_dim": widths[0] if len(widths) == 1 else None,  # None: a single head
        "norm_num_groups": NORM_GROUPS,
        # Without it, the middle block would have no normalisation if scale and shift are on.
        "attn_norm_num_groups": NORM_GROUPS,
        "norm_eps": NORM_EPS,
        "resnet_time_scale_shift": "scale_shift" if flags.use_scale_shift_norm else "default",
        "add_attention": True,
    }


def scheduler_config(flags: UNetFlags) -> dict[str, Any]:
    """The `scheduler_config.json` of a DDPMScheduler with the flags' diffusion process."""
    scale = 1000 / flags.diffusion_steps
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": flags.diffusion_steps,
        "beta_schedule": _SCHEDULES[flags.noise_schedule],
        "beta_start": scale * 0.0001,
        "beta_end": scale * 0.02,
        "variance_type": "learned_range" if flags.learn_sigma else "fixed_large",
        "prediction_type": "epsilon",
        "clip_sample": True,
    }


def to_unet2d(state: Mapping[str, Tensor], flags: UNetFlags) -> dict[str, Tensor]:
    """Convert the parameters of a network with these flags to those of the UNet2DModel."""
    layers, attentions = _names(flags)
    converted = {}
    for guided, unet2d in layers:
        for part in ("weight", "bias"):
            if f"{guided}.{part}" in state:
                converted[f"{unet2d}.{part}"] = state[f"{guided}.{part}"]
    for names in attentions:
        for part in ("weight", "bias"):
            qkv = state[f"{names.guided}.qkv.{part}"]
            # Rows are (head, q k v, channel), or (q k v, head, channel) in the new order.
            rows = qkv.reshape(*_order(flags, names.heads), -1, *qkv.shape[1:])
            axis = 0 if flags.use_new_attention_order else 1
            for letter, matrix in zip("qkv", rows.unbind(axis), strict=True):
                matrix = matrix.reshape(len(qkv) // 3, *qkv.shape[1:])
                converted[f"{names.unet2d}.to_{letter}.{part}"] = _as_linear(matrix, part)
            out = state[f"{names.guided}.proj_out.{part}"]
            converted[f"{names.unet2d}.to_out.0.{part}"] = _as_linear(out, part)
    return converted


def _block_types(attends: list[bool], updown: bool) -> tuple[list[str], list[str]]:
    """`down_block_types` and `up_block_types`; `attends` goes from full resolution down."""
    kinds = ("Attn{}Block2D", "Resnet{}sampleBlock2D" if updown else "{}Block2D")
    down = [kinds[not attention].format("Down") for attention in attends]
    return down, [kinds[not attention].format("Up") for attention in reversed(attends)]


def _meta_network(flags: UNetFlags) -> UNetModel:
    """The network of the flags, on the meta device."""
    with torch.device("meta"):
        return build_unet(flags)[0]


def _order(flags: UNetFlags, heads: int) -> tuple[int, int]:
    return (3, heads) if flags.use_new_attention_order else (heads, 3)


def _as_linear(value: Tensor, part: str) -> Tensor:
    """Turn a 1x1 convolution over pixels into a linear layer."""
    return value[..., 0] if part == "weight" else value


def _names(flags: UNetFlags) -> tuple[list[tuple[str, str]], list[Attention]]:
    """Pairs of names of all layers, guided_diffusion's first, and all attention layers."""
    unet = _meta_network(flags)
    modules = dict(unet.named_modules())
    layers, attentions = [], []
    for guided, unet2d in _parts(unet):
        module = modules[guided]
        if isinstance(module, AttentionBlock):
            attentions.append(Attention(guided, unet2d, cast(int, module.num_heads)))
            layers.append((f"{guided}.norm", f"{unet2d}.group_norm"))
        elif hasattr(module, "in_layers"):
            layers += [(f"{guided}.{old}", f"{unet2d}.{new}") for old, new in _RESIDUAL.items()]
        elif hasattr(module, "use_conv"):
            convolution = "op" if hasattr(module, "op") else "conv"
            layers.append((f"{guided}.{convolution}", f"{unet2d}.conv"))
        else:
            layers.append((guided, unet2d))
    return layers, attentions


def _parts(unet: UNetModel) -> Iterator[tuple[str, str]]:
    """Pairs of names of both networks' parts, in the order of the forward pass."""
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    per_level = unet.num_res_blocks
    for index in range(1, len(unet.input_blocks)):
        level, position = divmod(index - 1, per_level + 1)
        guided, unet2d = f"input_blocks.{index}", f"down_blocks.{level}"
        if position == per_level:
            yield f"{guided}.0", f"{unet2d}.downsamplers.0"
            continue
        yield f"{guided}.0", f"{unet2d}.resnets.{position}"
        if len(cast(Any, unet.input_blocks[index])) > 1:
            yield f"{guided}.1", f"{unet2d}.attentions.{position}"
    for number, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{number}", f"mid_block.{name}"
    for index, block in enumerate(unet.output_blocks):
        up, position = divmod(index, per_level + 1)
        guided, unet2d = f"output_blocks.{index}", f"up_blocks.{up}"
        yield f"{guided}.0", f"{unet2d}.resnets.{position}"
        for number, layer in enumerate(list(block.children())[1:], start=1):
            attention = isinstance(layer, AttentionBlock)
            name = f"attentions.{position}" if attention else "upsamplers.0"
            yield f"{guided}.{number}", f"{unet2d}.{name}"
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"
