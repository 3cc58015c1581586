"""The parameters of a guided_diffusion UNet as those of a `UNet2DModel` of diffusers, and back.

Both directions only rename, reshape and reorder, so that one undoes the other exactly.
Sources: openai/guided-diffusion `UNetModel`, diffusers `UNet2DModel`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ddpmseg.backbones.diffusers.flags import meta_network
from ddpmseg.backbones.guided_diffusion.unet import AttentionBlock, UNetFlags, UNetModel

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
    """The names of one attention layer in both networks."""

    guided: str
    unet2d: str
    heads: int


def to_unet2d(state: Mapping[str, Tensor], flags: UNetFlags) -> dict[str, Tensor]:
    """The parameters of the UNet2DModel, from those of a network of these flags."""
    layers, attentions = _names(flags)
    converted = {}
    for guided, unet2d in layers:
        for part in ("weight", "bias"):
            if f"{guided}.{part}" in state:
                converted[f"{unet2d}.{part}"] = state[f"{guided}.{part}"]
    for names in attentions:
        for part in ("weight", "bias"):
            qkv = state[f"{names.guided}.qkv.{part}"]
            # Rows are (head, q k v, channel), in the new order (q k v, head, channel).
            rows = qkv.reshape(*_order(flags, names.heads), -1, *qkv.shape[1:])
            axis = 0 if flags.use_new_attention_order else 1
            for letter, matrix in zip("qkv", rows.unbind(axis), strict=True):
                matrix = matrix.reshape(len(qkv) // 3, *qkv.shape[1:])
                converted[f"{names.unet2d}.to_{letter}.{part}"] = _as_linear(matrix, part)
            out = state[f"{names.guided}.proj_out.{part}"]
            converted[f"{names.unet2d}.to_out.0.{part}"] = _as_linear(out, part)
    return converted


def to_guided(state: Mapping[str, Tensor], flags: UNetFlags) -> dict[str, Tensor]:
    """What `to_unet2d` was given."""
    layers, attentions = _names(flags)
    converted = {}
    for guided, unet2d in layers:
        for part in ("weight", "bias"):
            if f"{unet2d}.{part}" in state:
                converted[f"{guided}.{part}"] = state[f"{unet2d}.{part}"]
    for names in attentions:
        for part in ("weight", "bias"):
            axis = 0 if flags.use_new_attention_order else 1
            matrices = [state[f"{names.unet2d}.to_{letter}.{part}"] for letter in "qkv"]
            split = [matrix.reshape(names.heads, -1, *matrix.shape[1:]) for matrix in matrices]
            qkv = torch.stack(split, axis).flatten(0, 2)
            converted[f"{names.guided}.qkv.{part}"] = _as_convolution(qkv, part)
            out = state[f"{names.unet2d}.to_out.0.{part}"]
            converted[f"{names.guided}.proj_out.{part}"] = _as_convolution(out, part)
    return converted


def _order(flags: UNetFlags, heads: int) -> tuple[int, int]:
    return (3, heads) if flags.use_new_attention_order else (heads, 3)


def _as_linear(value: Tensor, part: str) -> Tensor:
    """A 1x1 convolution over pixels is a linear layer."""
    return value[..., 0] if part == "weight" else value


def _as_convolution(value: Tensor, part: str) -> Tensor:
    return value[..., None] if part == "weight" else value


def _names(flags: UNetFlags) -> tuple[list[tuple[str, str]], list[Attention]]:
    """Names of all layers in both networks, guided_diffusion's first; attention also by itself."""
    unet = meta_network(flags)
    modules = dict(unet.named_modules())
    layers, attentions = [], []
    for guided, unet2d in _parts(unet):
        module = modules[guided]
        if isinstance(module, AttentionBlock):
            attentions.append(Attention(guided, unet2d, cast(int, module.num_heads)))
            layers.append((f"{guided}.norm", f"{unet2d}.group_norm"))
        elif hasattr(module, "in_layers"):
            layers += [(f"{guided}.{ours}", f"{unet2d}.{its}") for ours, its in _RESIDUAL.items()]
        elif hasattr(module, "use_conv"):
            convolution = "op" if hasattr(module, "op") else "conv"
            layers.append((f"{guided}.{convolution}", f"{unet2d}.conv"))
        else:
            layers.append((guided, unet2d))
    return layers, attentions


def _parts(unet: UNetModel) -> Iterator[tuple[str, str]]:
    """The parts of both networks in the order in which they run."""
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    per_level = unet.num_res_blocks
    for index in range(1, len(unet.input_blocks)):
        level, position = divmod(index - 1, per_level + 1)
        ours, its = f"input_blocks.{index}", f"down_blocks.{level}"
        if position == per_level:
            yield f"{ours}.0", f"{its}.downsamplers.0"
            continue
        yield f"{ours}.0", f"{its}.resnets.{position}"
        if len(cast(Any, unet.input_blocks[index])) > 1:
            yield f"{ours}.1", f"{its}.attentions.{position}"
    for ours, its in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{ours}", f"mid_block.{its}"
    for index, block in enumerate(unet.output_blocks):
        up, position = divmod(index, per_level + 1)
        ours, its = f"output_blocks.{index}", f"up_blocks.{up}"
        yield f"{ours}.0", f"{its}.resnets.{position}"
        for number, layer in enumerate(list(block.children())[1:], start=1):
            attention = isinstance(layer, AttentionBlock)
            name = f"attentions.{position}" if attention else "upsamplers.0"
            yield f"{ours}.{number}", f"{its}.{name}"
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"
