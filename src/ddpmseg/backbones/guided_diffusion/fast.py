"""Faster layers for a guided_diffusion UNet, with the same parameters and outputs."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.backbones.guided_diffusion.unet import (
    AttentionBlock,
    QKVAttentionLegacy,
    ResBlock,
    UNetModel,
)


def speed_up(unet: UNetModel) -> None:
    """Replace layers by faster ones that load the same state dict.

    Convolutions and maps use channels_last, the layout of fast 16-bit kernels on CPU and GPU.
    Normalisation keeps the dtype of its input, with statistics in fp32, while the package copies
    the map to fp32 and back. Attention does not store its matrix of weights. Without gradients,
    residual blocks overwrite temporary maps.
    """
    unet.to(memory_format=torch.channels_last)
    use_native_norms(unet)
    for module in unet.modules():
        if isinstance(module, AttentionBlock):
            module.__class__ = _FusedAttentionBlock
        elif isinstance(module, ResBlock):
            module.__class__ = _InPlaceResBlock


def use_native_norms(network: nn.Module) -> None:
    """Use the fast normalisation of `speed_up` in a network of any family."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = _NativeGroupNorm


class _NativeGroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.device.type == "cpu":
            return _GroupNormFunction.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        if x.device.type == "cpu":
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if torch.is_grad_enabled() or x.ndim != 4:
            # Only the CPU's kernel takes fp32 parameters with a 16-bit map.
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)
        return scaled_norm(self, x)


class _FusedAttentionBlock(AttentionBlock):
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        n, c, h, w = x.shape
        rows = self.norm(x).permute(0, 2, 3, 1).reshape(n, h * w, c)
        qkv = F.linear(rows, self.qkv.weight[..., 0], self.qkv.bias)
        if isinstance(self.attention, QKVAttentionLegacy):
            q, k, v = qkv.unflatten(2, (self.num_heads, 3, -1)).transpose(1, 3).unbind(1)
        else:
            q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = F.linear(read, self.proj_out.weight[..., 0], self.proj_out.bias)
        return x + out.view(n, h, w, c).permute(0, 3, 1, 2)


class _InPlaceResBlock(ResBlock):
    def forward(self, x: Float[Tensor, "n c h w"], emb: Float[Tensor, "n e"]) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x, emb)
        norm, _, conv = self.in_layers
        h = F.silu(norm(x), inplace=True)
        h = conv(self.h_upd(h))
        norm, _, _, conv = self.out_layers
        condition = self.emb_layers(emb)
        if not self.use_scale_shift_norm:
            h = norm(h.add_(condition.to(h.dtype)[..., None, None]))
        elif h.device.type == "cpu":
            scale, shift = condition.to(h.dtype)[..., None, None].chunk(2, dim=1)
            h = norm(h).mul_(1 + scale).add_(shift)
        else:
            scale, shift = condition.float().chunk(2, dim=1)
            h = scaled_norm(cast(nn.GroupNorm, norm), h, scale, shift)
        h = conv(F.silu(h, inplace=True))
        return h.add_(self.skip_connection(self.x_upd(x)))


def scaled_norm(
    norm: nn.GroupNorm,
    x: Float[Tensor, "n c h w"],
    scale: Float[Tensor, "n c"] | None = None,
    shift: Float[Tensor, "n c"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """norm(x) * (1 + scale) + shift, as one multiplication and addition per channel.

    On a GPU, torch's own group normalisation copies a channels_last map to the other layout and
    back, which takes longer than the convolutions. This function reads the map twice for its
    statistics, in fp32, and once for the result.
    """
    n, c, h, w = x.shape
    group = c // norm.num_groups

    def per_group(value: Tensor) -> Tensor:
        return value.view(n, -1, group).sum(dim=2) / (h * w * group)

    mean = per_group(x.sum((2, 3), dtype=torch.float32))
    squares = per_group(torch.linalg.vector_norm(x, dim=(2, 3), dtype=torch.float32).square())
    inverse = (squares - mean * mean).clamp_min(0).add(norm.eps).rsqrt()
    factor = inverse.repeat_interleave(group, dim=1) * norm.weight
    offset = norm.bias - mean.repeat_interleave(group, dim=1) * factor
    if scale is not None and shift is not None:
        factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
    return torch.addcmul(
        offset.to(x.dtype)[..., None, None], x, factor.to(x.dtype)[..., None, None]
    )


class _GroupNormFunction(torch.autograd.Function):
    """Group normalisation with a fast backward pass.

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
