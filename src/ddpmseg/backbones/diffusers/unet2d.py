"""The `UNet2DModel` of the diffusers library, divided into the blocks of its decoder.

This is the only module that imports the library, which is optional.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.errors import CheckpointError, MissingLibraryError
from ddpmseg.weights.model_folder import CONFIG
from ddpmseg.weights.read import read_state_dict
from ddpmseg.weights.shapes import differences, listed, shapes_of

UNet2D = Any
"""A `diffusers.UNet2DModel`, whose type is unknown unless the library is installed."""
ENCODER_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
DECODER_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of an attention's layers before version 0.15 of the library -> present names."""


@dataclass(frozen=True)
class Stage:
    """A residual block, the attention after it, and the layer that then changes the resolution."""

    residual: nn.Module
    attention: nn.Module | None
    resample: nn.Module | None


def diffusers_library() -> ModuleType:
    """The library. Raises ConfigError if it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingLibraryError("a diffusers network", "diffusers", "networks") from error
    return diffusers


def check_unet(config: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless `config` is an unconditional UNet2DModel of RGB images."""
    if problem := _problem(config):
        raise CheckpointError(
            f"'{path}' is not a network that can be used as a backbone: it {problem}. Use an "
            "unconditional UNet2DModel of diffusers, trained on RGB images with timesteps."
        )


def build_unet2d(config: Mapping[str, Any], path: Path) -> UNet2D:
    """Build the network of a checked configuration, initialised from torch's global generator.

    `path` is the configuration's file. Raises CheckpointError if the library rejects it.
    """
    try:
        return diffusers_library().UNet2DModel.from_config(dict(config))
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"diffusers cannot build the network of '{path}': {error}") from error


def read_unet2d(unet: UNet2D, weights: Path) -> dict[str, Tensor]:
    """Read the parameters of `unet` from a safetensors file, in the stored dtypes.

    Raises CheckpointError if they do not fit.
    """
    state = _new_names(read_state_dict(weights))
    if problems := differences(shapes_of(state), shapes_of(unet.state_dict())):
        raise CheckpointError(
            f"'{weights}' does not fit the network of the {CONFIG} beside it "
            f"({len(problems)} parameters differ):{listed(problems)}\nFetch both files anew."
        )
    return state


def load_unet2d(config: Mapping[str, Any], config_path: Path, weights: Path) -> UNet2D:
    """Build the network with the weights of a file, in fp32, without allocating others.

    Raises CheckpointError as `build_unet2d` and `read_unet2d`.
    """
    with torch.device("meta"):
        unet = build_unet2d(config, config_path)
    state = {key: value.float() for key, value in read_unet2d(unet, weights).items()}
    unet.load_state_dict(state, assign=True)
    return unet


def encoder_stages(unet: UNet2D) -> list[Stage]:
    return [stage for block in unet.down_blocks for stage in _stages(block, "downsamplers")]


def decoder_stages(unet: UNet2D) -> list[Stage]:
    """The decoder blocks, 0 = deepest; each reads one skip connection."""
    return [stage for block in unet.up_blocks for stage in _stages(block, "upsamplers")]


def decoder_specs(unet: UNet2D) -> tuple[BlockSpec, ...]:
    """Describe the decoder blocks. Block b is position b mod n of up block b // n.

    n = layers_per_block + 1; the last of an up block comes after its upsampler.
    """
    stride = 2 ** sum(stage.resample is not None for stage in encoder_stages(unet))
    specs = []
    for index, stage in enumerate(decoder_stages(unet)):
        residual: Any = stage.residual
        input_stride, names = stride, ["residual"]
        if stage.attention is not None:
            names.append("attention")
        if stage.resample is not None:
            names.append("upsample")
            stride //= 2
        specs.append(
            BlockSpec(
                index,
                residual.out_channels,
                stride,
                residual.in_channels,
                input_stride,
                "+".join(names),
            )
        )
    return tuple(specs)


def use_half(unet: UNet2D, dtype: torch.dtype) -> None:
    """Cast convolutions and the matrices of attention to `dtype`; other layers stay in fp32.

    guided_diffusion does the same, see its `use_half`: embeddings and norms are cheap and
    sensitive.
    """
    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    for attention in _attentions(unet):
        for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
            layer.to(dtype)


def _attentions(unet: UNet2D) -> list[Any]:
    blocks = [*unet.down_blocks, *unet.up_blocks]
    blocks += [] if unet.mid_block is None else [unet.mid_block]
    layers = [layer for block in blocks for layer in getattr(block, "attentions", ())]
    return [layer for layer in layers if layer is not None]


def _stages(block: Any, resamplers: str) -> list[Stage]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    last = getattr(block, resamplers)
    ends = [None] * (len(block.resnets) - 1) + [last[0] if last else None]
    return [Stage(*layers) for layers in zip(block.resnets, attentions, ends, strict=True)]


def _problem(config: Mapping[str, Any]) -> str | None:
    """A clause that says why the network cannot be used; None if it can."""
    kind = config.get("_class_name", "UNet2DModel")
    if kind == "UNet2DConditionModel":
        return "is conditioned on text (UNet2DConditionModel)"
    if kind != "UNet2DModel":
        return f"is a {kind}"
    if (channels := config.get("in_channels", 3)) != 3:
        return f"takes {channels} channels instead of an image's 3"
    if config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None:
        return "is class-conditional: a pass through it needs the class of every image"
    if config.get("center_input_sample"):
        return "takes images with values 0..1 and centres them itself (center_input_sample)"
    embedding = config.get("time_embedding_type", "positional")
    if embedding not in ("positional", "learned"):
        return f"takes the level of the noise, not a timestep ({embedding} embedding)"
    for key, known in (("down_block_types", ENCODER_BLOCKS), ("up_block_types", DECODER_BLOCKS)):
        for name in config.get(key, ()):
            if name not in known:
                return f"has a {name} among its {key}; known are {', '.join(known)}"
    if (padding := config.get("downsample_padding", 1)) not in (0, 1):
        return f"pads by {padding} before downsampling (downsample_padding)"
    for key in ("downsample_type", "upsample_type"):
        if (value := config.get(key) or "conv") not in ("conv", "resnet"):
            return f"has {key} '{value}'; known are conv, resnet"
    return None


def _new_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters of earlier versions of the library to their present names."""

    def rename(key: str) -> str:
        parts = key.split(".")
        if parts[-4:-3] == ["attentions"]:
            parts[-2] = _OLD_NAMES.get(parts[-2], parts[-2])
        return ".".join(parts)

    return {rename(key): value for key, value in state.items()}
