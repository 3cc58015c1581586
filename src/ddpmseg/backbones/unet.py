"""The UNet and the diffusion process of the `guided_diffusion` package (openai/guided-diffusion).

This is the only module that imports the package.
"""

import warnings
from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with warnings.catch_warnings():
    # The package decorates its checkpointing function with a deprecated alias.
    warnings.filterwarnings("ignore", message=".*custom_(fwd|bwd).*", category=FutureWarning)
    from guided_diffusion.gaussian_diffusion import GaussianDiffusion
    from guided_diffusion.nn import GroupNorm32, timestep_embedding
    from guided_diffusion.script_util import (
        create_gaussian_diffusion,
        create_model_and_diffusion,
        model_and_diffusion_defaults,
    )
    from guided_diffusion.unet import (
        AttentionBlock,
        QKVAttention,
        QKVAttentionLegacy,
        ResBlock,
        UNetModel,
    )

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.errors import ConfigError

__all__ = [
    "GaussianDiffusion",
    "UNetFlags",
    "UNetModel",
    "build_unet",
    "decoder_blocks",
    "sampling_process",
    "speed_up",
    "timestep_embedding",
    "use_half",
]


@dataclass
class UNetFlags:
    """Flags of a guided_diffusion network, named as in its `create_model_and_diffusion`.

    They are not stored in a checkpoint. Flags that differ from those of the training fail to load
    or, for `num_head_channels` and `use_new_attention_order`, load and give noise.
    """

    image_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: str = ""
    """Comma-separated multipliers of `num_channels`, one per level; empty: the default."""
    num_heads: int = 4
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    attention_resolutions: str = "16,8"
    dropout: float = 0.0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    rescale_timesteps: bool = False


def build_unet(flags: UNetFlags) -> tuple[UNetModel, GaussianDiffusion]:
    """The network, freshly initialised from torch's global generator, and its diffusion process.

    Raises ConfigError when the package rejects the flags.
    """
    try:
        return create_model_and_diffusion(**(model_and_diffusion_defaults() | asdict(flags)))
    except (AssertionError, ValueError, ZeroDivisionError, NotImplementedError) as error:
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
    """Cast convolutions to `dtype` once, as the package does for fp16; the rest stays in fp32.

    Source: openai/guided-diffusion `UNetModel.convert_to_fp16`.
    """

    def cast(module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            module.to(dtype)

    for part in (unet.input_blocks, unet.middle_block, unet.output_blocks):
        part.apply(cast)
    unet.dtype = dtype


def speed_up(unet: UNetModel) -> None:
    """Swap parts for faster ones that compute the same function of the same parameters.

    Convolutions move to channels_last, the layout in which the CPU's and the GPU's 16-bit kernels
    are fast. Normalisation stays in the dtype of its input, with statistics in fp32, where the
    package would copy the map to fp32 and back. Attention never builds its matrix of weights.
    """
    unet.to(memory_format=torch.channels_last)
    for module in unet.modules():
        if isinstance(module, GroupNorm32):
            module.__class__ = _NativeGroupNorm
        elif isinstance(module, QKVAttentionLegacy):
            module.__class__ = _FusedAttentionLegacy
        elif isinstance(module, QKVAttention):
            module.__class__ = _FusedAttention


class _NativeGroupNorm(GroupNorm32):
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and torch.is_grad_enabled() and x.device.type == "cpu":
            return _GroupNormFunction.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        weight, bias = self.weight, self.bias
        if x.device.type != "cpu":
            # Only the CPU's kernel takes fp32 parameters beside a 16-bit map.
            weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class _FusedAttentionLegacy(QKVAttentionLegacy):
    """Rows of qkv are ordered (head, [q, k, v], channel)."""

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(1, (self.n_heads, 3, -1)).transpose(3, 4).contiguous().unbind(2)
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)


class _FusedAttention(QKVAttention):
    """Rows of qkv are ordered ([q, k, v], head, channel)."""

    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(1, (3, self.n_heads, -1)).transpose(3, 4).contiguous().unbind(1)
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)


class _GroupNormFunction(torch.autograd.Function):
    """Group normalisation whose backward is a few passes of plain arithmetic.

    On a CPU, torch's own backward is several times slower for 16-bit channels_last maps.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c, h, w = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (dy,) = grad_outputs
        x, weight, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        groups = mean.shape[1]

        def per_channel(value: Tensor) -> Tensor:
            return value.float().repeat_interleave(c // groups, dim=1)

        def group_mean(value: Tensor) -> Tensor:
            return per_channel(value.view(n, groups, -1).sum(dim=2) * groups / (c * h * w))

        mean, rstd = per_channel(mean), per_channel(rstd)
        sum_dy = dy.sum((2, 3), dtype=torch.float32)
        sum_dy_x = (dy * x).sum((2, 3), dtype=torch.float32)
        # x_hat = (x - mean) * rstd; the sums below are over height and width.
        sum_dy_x_hat = (sum_dy_x - mean * sum_dy) * rstd
        pull_mean = group_mean(weight * sum_dy)
        pull_scale = group_mean(weight * sum_dy_x_hat)
        # dx = rstd * (weight * dy - pull_mean - x_hat * pull_scale), ordered by powers of x.
        by_dy = (rstd * weight).to(x.dtype)[..., None, None]
        by_x = (-rstd * rstd * pull_scale).to(x.dtype)[..., None, None]
        constant = (rstd * (rstd * mean * pull_scale - pull_mean)).to(x.dtype)[..., None, None]
        dx = torch.addcmul(dy * by_dy + constant, x, by_x)
        return dx, sum_dy_x_hat.sum(0), sum_dy.sum(0), None, None
