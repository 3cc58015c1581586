"""The generator of StyleGAN2 without its image: from codes to the maps of styled convolutions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

EPSILON = 1e-8
"""Added under the root of a demodulation."""
SLOPE, GAIN = 0.2, sqrt(2)
"""The activation is a leaky ReLU of this slope, times a gain that keeps the variance."""


def config_f_widths(size: int, channels: int = 512) -> list[int]:
    """Channels at 4, 8, ... `size` pixels in the published generators ("config-f").

    For 512: 512 up to 64 pixels, then half as many at every doubling. Source: Karras et al. 2020.
    """
    return [min(channels, max(1, 64 * channels >> level)) for level in range(2, size.bit_length())]


class Blur(nn.Module):
    """The low-pass filter after a convolution that doubles the sides; it removes the odd pixel."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.kernel: Tensor
        # The sum is 4, since three of four pixels before the doubling convolution are zeros.
        self.register_buffer("kernel", torch.outer(taps, taps) / 16)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _ _"]:
        """(n, c, 2s + 1, 2s + 1) -> (n, c, 2s, 2s)"""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, 4, 4), padding=1, groups=channels)


class ModulatedConvolution(nn.Module):
    """A 3x3 convolution whose weights are scaled by a style and normalised for every image.

    Scaling weights per input channel equals scaling the input, and normalising them per output
    channel equals scaling the output. So all images of a batch share one convolution. Styles and
    normalisations are computed in fp32.
    """

    def __init__(
        self, code_dim: int, in_channels: int, out_channels: int, upsampling: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, 3, 3))
        self.modulation = nn.Linear(code_dim, in_channels)
        nn.init.normal_(self.modulation.weight)
        nn.init.ones_(self.modulation.bias)
        self.blur = Blur() if upsampling else None

    @torch.no_grad()
    def fold_constants(self, dtype: torch.dtype) -> None:
        """Scale the weights once, instead of in every pass, and cast the convolution to `dtype`."""
        self.modulation.weight.mul_(1 / sqrt(self.modulation.in_features))
        weight = self.weight[0] / sqrt(self.weight[0, 0].numel())
        self.energy: Tensor
        self.register_buffer("energy", weight.square().sum(dim=(2, 3)), persistent=False)
        if self.blur is not None:
            weight = weight.transpose(0, 1)  # the layout of a transposed convolution
            self.blur.to(dtype)
        weight = weight.to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(
        self, x: Float[Tensor, "n c h w"], code: Float32[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n k _ _"], Float32[Tensor, "n k 1 1"]]:
        """A map, and the factors by which its channels must still be multiplied."""
        style = self.modulation(code)
        # The normalisation cancels any factor; this one prevents overflow in 16 bits.
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

    Parameters have the names of rosinality/stylegan2-pytorch, whose file format is the usual one.
    """

    def __init__(
        self, code_dim: int, in_channels: int, out_channels: int, upsampling: bool
    ) -> None:
        super().__init__()
        self.conv = ModulatedConvolution(code_dim, in_channels, out_channels, upsampling)
        self.noise = nn.ParameterDict({"weight": torch.zeros(1)})
        self.activate = nn.ParameterDict({"bias": torch.zeros(out_channels)})

    @torch.no_grad()
    def fold_constants(self, noise: Float[Tensor, "1 1 s s"], dtype: torch.dtype) -> None:
        """Scale and cast weights once; `noise` is the constant added to the map of every image."""
        self.conv.fold_constants(dtype)
        # The gain commutes with the activation, so noise and bias are multiplied by it here.
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
    """A learned constant of 4 x 4 pixels and the styled convolutions after it.

    There is one convolution at 4 pixels, and two at each doubled size, of which the first doubles
    it. The layers that turn maps into an image, and noise into codes, are not built.

    Args:
        widths: channels at 4, 8, 16, ... pixels.
        code_dim: length of the code that determines a convolution's style.

    Source: Karras et al. 2020 (arXiv 1912.04958); rosinality/stylegan2-pytorch, `model.py`.
    """

    def __init__(self, widths: Sequence[int], code_dim: int) -> None:
        super().__init__()
        self.input = nn.ParameterDict({"input": torch.randn(1, widths[0], 4, 4)})
        self.conv1 = StyledConvolution(code_dim, widths[0], widths[0], upsampling=False)
        self.convs = nn.ModuleList()
        for before, after in pairwise(widths):
            self.convs.append(StyledConvolution(code_dim, before, after, upsampling=True))
            self.convs.append(StyledConvolution(code_dim, after, after, upsampling=False))
        sides = [4, *(8 << index // 2 for index in range(len(self.convs)))]
        self.noises = nn.ParameterDict(
            {f"noise_{index}": torch.randn(1, 1, side, side) for index, side in enumerate(sides)}
        )

    def layers(self) -> Iterator[StyledConvolution]:
        """The layers in the order of the forward pass; layer i takes code i."""
        yield self.conv1
        for layer in self.convs:
            assert isinstance(layer, StyledConvolution)
            yield layer

    def fold_constants(self, dtype: torch.dtype) -> None:
        """Prepare the network to run in `dtype`. Call it once, after weights are loaded.

        Computes what is the same in every pass: scaled weights, noise times its strength.
        """
        for index, layer in enumerate(self.layers()):
            layer.fold_constants(self.noises[f"noise_{index}"], dtype)
        self.noises.clear()
        self.input.to(dtype)

    def iterate_maps(self, count: int, codes: Iterable[Float32[Tensor, "n d"]]) -> Iterator[Tensor]:
        """Yield the constant, then the map after each layer, for `count` images.

        A layer runs, and takes its code, when its map is requested. Maps have the network's dtype,
        channels last.
        """
        h = self.input["input"].repeat(count, 1, 1, 1)
        h = h.contiguous(memory_format=torch.channels_last)
        yield h
        for layer, code in zip(self.layers(), codes, strict=False):
            h = layer(h, code)
            yield h


def num_codes(size: int) -> int:
    """Number of codes for `size` pixels: one per layer, and one for the colours of the last map."""
    return 2 * (size.bit_length() - 1) - 2
