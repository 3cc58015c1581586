"""IR-SE-50, the residual network with squeeze-and-excitation that encoders of GANs are made of."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ddpmseg.backbones.base import BlockSpec

STAGES = ((1, 3), (2, 4), (4, 14), (8, 3))
"""Width as a multiple of the first one, and bottlenecks; the first of each halves its map."""
NUM_BOTTLENECKS = sum(count for _, count in STAGES)
REDUCTION = 16
"""Of the channels within a squeeze-and-excitation."""


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
    """Batch norm, two convolutions, squeeze-and-excitation; the second one has the stride.

    The shortcut takes every `stride`-th pixel, through a 1x1 convolution where the width changes.
    """

    def __init__(self, entering: int, width: int, stride: int) -> None:
        super().__init__()
        self.entering, self.width, self.stride = entering, width, stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(entering),
            nn.Conv2d(entering, width, kernel_size=3, padding=1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            SqueezeExcitation(width),
        )
        self.shortcut_layer = None
        if entering != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(entering, width, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d _ _"]:
        if self.shortcut_layer is None:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_layer(x)
        return self.res_layer(x) + shortcut


class IRSE50(nn.Module):
    """The network without its classifier. Parameters are named as in the original's files.

    Args:
        channels: after the last stage, 8 times those after the first layer: 512 in all published
            ones.

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
        entering = first
        for multiple, count in STAGES:
            width = first * multiple
            for index in range(count):
                self.body.append(Bottleneck(entering, width, stride=1 if index else 2))
                entering = width

    def bottlenecks(self) -> Iterator[Bottleneck]:
        """In the order of the forward pass."""
        for block in self.body:
            assert isinstance(block, Bottleneck)
            yield block

    def block_specs(self) -> tuple[BlockSpec, ...]:
        specs, stride = [], 1
        for index, block in enumerate(self.bottlenecks()):
            before, stride = stride, stride * block.stride
            specs.append(
                BlockSpec(index, block.width, stride, block.entering, before, f"body[{index}]")
            )
        return tuple(specs)

    def passed(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Tensor]:
        """The map after the first layer, then that after each bottleneck, as it is asked for."""
        h = self.input_layer(images)
        yield h
        for block in self.bottlenecks():
            h = block(h)
            yield h

    def fold_batch_norms(self) -> None:
        """Make a frozen batch norm part of the convolution before it, where there is one.

        The one at the beginning of a bottleneck stays: behind it the edges are padded with zeros.
        To be called in eval mode, once weights are loaded, and before they are rounded to 16 bits.
        """
        _fold(self.input_layer, 0)
        for block in self.bottlenecks():
            _fold(block.res_layer, 3)
            if block.shortcut_layer is not None:
                _fold(block.shortcut_layer, 0)


def _fold(layers: nn.Sequential, index: int) -> None:
    """Make the batch norm that follows convolution `index` part of it."""
    convolution, norm = layers[index], layers[index + 1]
    layers[index] = fuse_conv_bn_eval(convolution, norm)  # pyright: ignore[reportArgumentType]
    layers[index + 1] = nn.Identity()


def rounded(network: nn.Module, dtype: torch.dtype) -> None:
    """Round convolutions to `dtype`, channels last; norms and linear layers stay in fp32."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype).to(memory_format=torch.channels_last)
        elif isinstance(module, nn.PReLU):
            module.to(dtype)
