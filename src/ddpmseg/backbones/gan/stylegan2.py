"""The generator of StyleGAN2 as far as its maps go: codes in, styled convolutions out, no image."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

EPSILON = 1e-8
"""Below the root in a demodulation."""
SLOPE, GAIN = 0.2, sqrt(2)
"""Of the activation: leaky ReLU, times a gain that keeps the variance."""


def config_f_widths(size: int, channels: int = 512) -> list[int]:
    """Channels at 4, 8, ... `size` pixels as in the published generators ("config-f").

    With 512: up to 64 pixels 512, then half as many at every doubling. Source: Karras et al. 2020.
    """
    return [min(channels, max(1, 64 * channels >> level)) for level in range(2, size.bit_length())]


class Blur(nn.Module):
    """The low-pass filter behind a convolution that doubles the sides; takes off the odd pixel."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.kernel: Tensor
        # Its sum is 4: three of four pixels of what it filters are zeros between the others.
        self.register_buffer("kernel", torch.outer(taps, taps) / 16)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _ _"]:
        """(n, c, 2s + 1, 2s + 1) -> (n, c, 2s, 2s)"""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, 4, 4), padding=1, groups=channels)


class ModulatedConvolution(nn.Module):
    """A 3x3 convolution whose weights are scaled by a style and normalised, image by image.

    Scaling weights per input channel is scaling what enters, and normalising them per output
    channel is scaling what leaves: so all images of a batch share one convolution. Styles and
    normalisations are computed in fp32.
    """

    def __init__(self, code_dim: int, entering: int, leaving: int, upsampling: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, leaving, entering, 3, 3))
        self.modulation = nn.Linear(code_dim, entering)
        nn.init.normal_(self.modulation.weight)
        nn.init.ones_(self.modulation.bias)
        self.blur = Blur() if upsampling else None

    @torch.no_grad()
    def fold_constants(self, dtype: torch.dtype) -> None:
        """Scale weights as every pass would, and round those of the convolution to `dtype`."""
        self.modulation.weight.mul_(1 / sqrt(self.modulation.in_features))
        weight = self.weight[0] / sqrt(self.weight[0, 0].numel())
        self.energy: Tensor
        self.register_buffer("energy", weight.square().sum(dim=(2, 3)), persistent=False)
        if self.blur is not None:
            weight = weight.transpose(0, 1)  # as a transposed convolution has it
            self.blur.to(dtype)
        weight = weight.to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(
        self, x: Float[Tensor, "n c h w"], code: Float32[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n k _ _"], Float32[Tensor, "n k 1 1"]]:
        """A map, and what its channels are still to be multiplied by."""
        style = self.modulation(code)
        # The normalisation undoes any factor. With this one 16 bits do not overflow.
        factor = style.abs().amax(dim=1, keepdim=True).clamp_min(EPSILON)
        style = style / factor
        scale = (style.square() @ self.energy.T + EPSILON / factor.square()).rsqrt()
        x = x * style[:, :, None, None].to(x.dtype)
        if self.blur is None:
            x = F.conv2d(x, self.weight, padding=1)
        else:
            x = self.blur(F.conv_transpose2d(x, self.weight, stride=2))
        return x, scale[:, :, None, None]


class StyledConvolution(nn.Module):
    """Modulated convolution, noise, bias and activation: one block of the generator.

    Parameters are named as in rosinality/stylegan2-pytorch, whose files are the usual ones.
    """

    def __init__(self, code_dim: int, entering: int, leaving: int, upsampling: bool) -> None:
        super().__init__()
        self.conv = ModulatedConvolution(code_dim, entering, leaving, upsampling)
        self.noise = nn.ParameterDict({"weight": torch.zeros(1)})
        self.activate = nn.ParameterDict({"bias": torch.zeros(leaving)})

    @torch.no_grad()
    def fold_constants(self, noise: Float[Tensor, "1 1 s s"], dtype: torch.dtype) -> None:
        """Likewise; `noise` is the constant that is added to the map of every image."""
        self.conv.fold_constants(dtype)
        # The gain of the activation is taken in here: it commutes with it.
        added, bias = noise * self.noise["weight"] * GAIN, self.activate["bias"] * GAIN
        self.added: Tensor
        self.bias: Tensor
        self.register_buffer("added", added.to(dtype), persistent=False)
        self.register_buffer("bias", bias.view(-1, 1, 1).to(dtype), persistent=False)

    def forward(
        self, x: Float[Tensor, "n c h w"], code: Float32[Tensor, "n d"]
    ) -> Float[Tensor, "n k _ _"]:
        x, scale = self.conv(x, code)
        torch.addcmul(self.added, x, (scale * GAIN).to(x.dtype), out=x)
        return F.leaky_relu_(x.add_(self.bias), SLOPE)


class Generator(nn.Module):
    """A learned constant of 4 x 4 pixels and the styled convolutions that draw on it.

    One convolution at 4 pixels, two at each doubled size, the first of which doubles it. Those that
    make an image of the maps, and the network that makes codes of noise, are left out.

    Args:
        widths: channels at 4, 8, 16, ... pixels.
        code_dim: of the code that each convolution has its style from.

    Source: Karras et al. 2020 (arXiv 1912.04958); rosinality/stylegan2-pytorch, `model.py`.
    """

    def __init__(self, widths: Sequence[int], code_dim: int) -> None:
        super().__init__()
        self.input = nn.ParameterDict({"input": torch.randn(1, widths[0], 4, 4)})
        self.conv1 = StyledConvolution(code_dim, widths[0], widths[0], upsampling=False)
        self.convs = nn.ModuleList()
        for entering, leaving in pairwise(widths):
            self.convs.append(StyledConvolution(code_dim, entering, leaving, upsampling=True))
            self.convs.append(StyledConvolution(code_dim, leaving, leaving, upsampling=False))
        sides = [4, *(8 << index // 2 for index in range(len(self.convs)))]
        self.noises = nn.ParameterDict(
            {f"noise_{index}": torch.randn(1, 1, side, side) for index, side in enumerate(sides)}
        )

    def layers(self) -> Iterator[StyledConvolution]:
        """In the order of the forward pass; layer i is given code i."""
        yield self.conv1
        for layer in self.convs:
            assert isinstance(layer, StyledConvolution)
            yield layer

    def fold_constants(self, dtype: torch.dtype) -> None:
        """Make it ready to run in `dtype`: to be called once, when weights are loaded.

        What is the same in every pass is computed: scaled weights, noise times its strength.
        """
        for index, layer in enumerate(self.layers()):
            layer.fold_constants(self.noises[f"noise_{index}"], dtype)
        self.noises.clear()
        self.input.to(dtype)

    def passed(self, count: int, codes: Iterable[Float32[Tensor, "n d"]]) -> Iterator[Tensor]:
        """The constant, then the map after each layer, for `count` images.

        A layer runs, and its code is taken, once its map is asked for. Maps are of the dtype the
        network runs in, channels last.
        """
        h = self.input["input"].repeat(count, 1, 1, 1)
        h = h.contiguous(memory_format=torch.channels_last)
        yield h
        for layer, code in zip(self.layers(), codes, strict=False):
            h = layer(h, code)
            yield h


def num_codes(size: int) -> int:
    """Of images of `size` pixels: one for every layer, and one for the colours of the last map."""
    return 2 * (size.bit_length() - 1) - 2
