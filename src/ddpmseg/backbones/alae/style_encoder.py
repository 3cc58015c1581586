"""The encoder of StyleALAE: two convolutions per level, each with an instance norm."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.weights.shapes import Shapes

SLOPE = 0.2
"""Slope of the leaky ReLUs below zero."""
EPS = 1e-5
"""Added to the variances of the instance norms."""


class StyleEncoder(nn.Module):
    """The encoder, with the parameter names of the original's files.

    Level 0 takes images of 2^(levels + 1) pixels, every further level images of half that side,
    each through its own 1x1 convolution. A level halves its map; the last output is 2x2. The layers
    `style_*`, which compute the latent code from statistics of the maps, exist only because files
    hold them.

    Source: Pidhorskyi et al. 2020 (arXiv 2004.04467); podgorskiy/ALAE, `net.py`, `EncoderDefault`.
    """

    def __init__(self, levels: int, channels: int, max_channels: int, latent_size: int) -> None:
        super().__init__()
        widths = [min(max_channels, channels * 2**level) for level in range(levels + 1)]
        self.from_rgb = nn.ModuleList(FromRGB(width) for width in widths[:-1])
        self.encode_block = nn.ModuleList(
            EncodeBlock(before, after, latent_size) for before, after in pairwise(widths)
        )
        self.entry = 0

    def enter_at(self, level: int) -> None:
        """Keep only the layers that images of that level pass through, in their fastest form.

        Call it once, after weights are loaded and before they are rounded to 16 bits.
        """
        self.entry = level
        self.from_rgb = self.from_rgb[level : level + 1]
        self.encode_block = self.encode_block[level:]
        for block in self._blocks():
            block.fold()

    def layers(self, images: Float[Tensor, "n 3 s s"]) -> Iterator[Tensor]:
        """Yield the input of the first level, then the map after every instance norm."""
        h = self.from_rgb[0](images)
        yield h
        for block in self._blocks():
            h = block.first(h)
            yield h
            h = block.second(h)
            yield h

    def layer_specs(self) -> tuple[BlockSpec, ...]:
        """The instance norms, two per level; strides refer to the level where images enter."""
        specs: list[BlockSpec] = []
        for level, block in enumerate(self._blocks()):
            before, after, stride = block.conv_2.in_channels, block.conv_2.out_channels, 2**level
            for norm, channels, stride_after in ((1, before, stride), (2, after, 2 * stride)):
                name = f"encode_block[{self.entry + level}].instance_norm_{norm}"
                specs.append(BlockSpec(len(specs), channels, stride_after, before, stride, name))
        return tuple(specs)

    def _blocks(self) -> Iterator["EncodeBlock"]:
        for block in self.encode_block:
            assert isinstance(block, EncodeBlock)
            yield block


class FromRGB(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_rgb = _convolution(3, width, 1, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        # Two leaky ReLUs: the original has one in this layer and another after it.
        return F.leaky_relu(self.from_rgb(images), SLOPE**2)


class EncodeBlock(nn.Module):
    """One level: (n, in_channels, h, w) -> (n, out_channels, h / 2, w / 2)."""

    def __init__(self, in_channels: int, out_channels: int, latent_size: int) -> None:
        super().__init__()
        self.conv_1 = _convolution(in_channels, in_channels, 3)
        self.bias_1 = nn.Parameter(torch.zeros(1, in_channels, 1, 1))
        self.blur = _blur(in_channels)
        self.conv_2 = _convolution(in_channels, out_channels, 3)
        self.bias_2 = nn.Parameter(torch.zeros(1, out_channels, 1, 1))
        self.halve: nn.Module = nn.AvgPool2d(2)
        self.style_1 = nn.Linear(2 * in_channels, latent_size)
        self.style_2 = nn.Linear(2 * out_channels, latent_size)

    def first(self, x: Float[Tensor, "n e h w"]) -> Float[Tensor, "n e h w"]:
        return _activated(self.conv_1(x), self.bias_1)

    def second(self, x: Float[Tensor, "n e h w"]) -> Float[Tensor, "n l _ _"]:
        return _activated(self.halve(self.conv_2(self.blur(x))), self.bias_2)

    def fold(self) -> None:
        """Merge halving into the second convolution and drop the styles; maps stay the same."""
        self.conv_2.weight = nn.Parameter(halving_kernel(self.conv_2.weight.detach()))
        self.conv_2.kernel_size, self.conv_2.stride = (4, 4), (2, 2)
        self.halve = nn.Identity()
        del self.style_1, self.style_2


def halving_kernel(kernel: Float[Tensor, "o i 3 3"]) -> Float[Tensor, "o i 4 4"]:
    """Kernel of a convolution of stride 2 that equals this one followed by 2x2 average pooling.

    It needs 16 products instead of 36. The original does so from 128 pixels on.
    """
    paddings = [(left, 1 - left, top, 1 - top) for top in (0, 1) for left in (0, 1)]
    return torch.stack([F.pad(kernel, padding) for padding in paddings]).mean(0)


def instance_norm(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Normalise each channel of each image to mean 0 and deviation 1, computed in fp32.

    Overwrites an `x` in fp32. torch's own function copies a channels_last map to the other layout
    and back.
    """
    h = x.float()
    h.sub_(h.mean((2, 3), keepdim=True))
    variance = h.square().mean((2, 3), keepdim=True)
    return h.mul_((variance + EPS).rsqrt()).to(x.dtype)


def _activated(x: Tensor, bias: Tensor) -> Tensor:
    """Activation and norm; overwrites `x`, the output of a convolution."""
    return instance_norm(F.leaky_relu_(x.add_(bias), SLOPE))


def _convolution(in_channels: int, out_channels: int, side: int, bias: bool = False) -> nn.Conv2d:
    """A convolution with the original's initial values: N(0, 2 / fan in), bias 0."""
    convolution = nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _blur(channels: int) -> nn.Conv2d:
    """A filter of weights 1, 2, 1 along both axes in every channel. Files hold it, too."""
    blur = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    line = torch.tensor([0.25, 0.5, 0.25])
    blur.weight.data.copy_(torch.outer(line, line))
    return blur


def style_encoder_settings(shapes: Shapes) -> dict[str, Any]:
    """Infer the arguments of `StyleEncoder`. Raises ValueError for a missing parameter."""
    levels = len({key.split(".")[1] for key in shapes if key.startswith("encode_block.")})
    needed = {
        "from_rgb.0.from_rgb.weight": 4,
        "encode_block.0.style_1.weight": 2,
        f"encode_block.{levels - 1}.conv_2.weight": 4,
    }
    for key, axes in needed.items():
        if len(shapes.get(key, ())) != axes:
            raise ValueError(f"there is no '{key}' of {axes} axes")
    (channels, *_), (latent_size, _), (max_channels, *_) = (shapes[key] for key in needed)
    return {
        "levels": levels,
        "channels": channels,
        "max_channels": max_channels,
        "latent_size": latent_size,
    }
