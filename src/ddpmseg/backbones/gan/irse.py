"""IR-SE-50, the residual network with squeeze-and-excitation in encoders of GANs."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ddpmseg.backbones.base import BlockSpec

STAGES = ((1, 3), (2, 4), (4, 14), (8, 3))
"""Width as a multiple of the stem's, and number of bottlenecks; the first of each halves maps."""
NUM_BOTTLENECKS = sum(count for _, count in STAGES)
REDUCTION = 16
"""Factor by which a squeeze-and-excitation reduces channels."""


class SqueezeExcitation(nn.Module):
    """Scales every channel by a number in 0..1 that depends on the means of all. Hu et al. 2018."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(self.fc1(means).relu()).sigmoid()


class Bottleneck(nn.Module):
    """Batch norm, two convolutions, squeeze-and-excitation; the second convolution is strided.

    The shortcut takes every `stride`-th pixel, through a 1x1 convolution if the width changes.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.width, self.stride = in_channels, width, stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            SqueezeExcitation(width),
        )
        self.shortcut_layer = None
        if in_channels != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, width, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d _ _"]:
        if self.shortcut_layer is None:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_layer(x)
        return self.res_layer(x) + shortcut


class IRSE50(nn.Module):
    """The network without its classifier, with the parameter names of the original's files.

    Args:
        channels: channels after the last stage, 8 times those after the first layer; 512 in all
            published networks.

    Source: Deng et al. 2019 (arXiv 1801.07698), its "IR-SE" variant; omertov/encoder4editing,
    `models/encoders/helpers.py`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = channels // STAGES[-1][0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.PReLU(first),
        )
        self.body = nn.Sequential()
        in_channels = first
        for multiple, count in STAGES:
            width = first * multiple
            for index in range(count):
                self.body.append(Bottleneck(in_channels, width, stride=1 if index else 2))
                in_channels = width

    def bottlenecks(self) -> Iterator[Bottleneck]:
        """The bottlenecks in the order of the forward pass."""
        for block in self.body:
            assert isinstance(block, Bottleneck)
            yield block

    def block_specs(self) -> tuple[BlockSpec, ...]:
        specs, stride = [], 1
        for index, block in enumerate(self.bottlenecks()):
            before, stride = stride, stride * block.stride
            specs.append(
                BlockSpec(index, block.width, stride, block.in_channels, before, f"body[{index}]")
            )
        return tuple(specs)

    def iterate_maps(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Tensor]:
        """Yield the map after the first layer, then after each bottleneck, run on request."""
        h = self.input_layer(images)
        yield h
        for block in self.bottlenecks():
            h = block(h)
            yield h

    def fold_batch_norms(self) -> None:
        """Merge frozen batch norms into the convolutions before them.

        The batch norm at the start of a bottleneck stays, as zero padding follows it. Call this in
        eval mode, after weights are loaded and before they are rounded to 16 bits.
        """
        _fold(self.input_layer, 0)
        for block in self.bottlenecks():
            _fold(block.res_layer, 3)
            if block.shortcut_layer is not None:
                _fold(block.shortcut_layer, 0)


def _fold(layers: nn.Sequential, index: int) -> None:
    """Merge the batch norm after convolution `index` into it."""
    convolution, norm = layers[index], layers[index + 1]
    layers[index] = fuse_conv_bn_eval(convolution, norm)  # pyright: ignore[reportArgumentType]
    layers[index + 1] = nn.Identity()


def cast_convolutions(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast convolutions to `dtype`, channels last; norms and linear layers stay in fp32."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype).to(memory_format=torch.channels_last)
        elif isinstance(module, nn.PReLU):
            module.to(dtype)
