"""e4e: an encoder that inverts a StyleGAN2, and the generator that it was trained with."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.backbones.gan.irse import IRSE50, NUM_BOTTLENECKS, cast_convolutions
from ddpmseg.backbones.gan.stylegan2 import Generator, config_f_widths, num_codes
from ddpmseg.errors import ConfigError
from ddpmseg.weights.shapes import Shapes

MARKER = "encoder.input_layer.0.weight"
"""A parameter that every file of e4e has."""
LATERALS = (6, 20)
"""Bottlenecks whose maps enter the pyramid: the last ones of strides 4 and 8."""
COARSE, MIDDLE = 3, 7
"""Heads below COARSE read maps of stride 16, those below MIDDLE stride 8, others stride 4."""
STRIDE, LARGEST_INPUT = 16, 256
"""The side of images is a multiple of STRIDE, and at most LARGEST_INPUT where heads are used."""


class PyramidEncoder(IRSE50):
    """IR-SE-50 with two levels of a feature pyramid, with the parameter names of e4e's files.

    Source: Tov et al. 2021 (arXiv 2102.02766); omertov/encoder4editing,
    `models/encoders/psp_encoders.py`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.latlayer1 = nn.Conv2d(channels // 2, channels, kernel_size=1)
        self.latlayer2 = nn.Conv2d(channels // 4, channels, kernel_size=1)

    def block_specs(self) -> tuple[BlockSpec, ...]:
        """The bottlenecks, then both levels of the pyramid."""
        body = super().block_specs()
        channels, stride = body[-1].channels, body[-1].stride
        first = BlockSpec(len(body), channels, stride // 2, channels, stride, "pyramid[1/8]")
        second = BlockSpec(
            len(body) + 1, channels, stride // 4, channels, stride // 2, "pyramid[1/4]"
        )
        return (*body, first, second)

    def iterate_maps(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Tensor]:
        """Yield the map after the first layer, then after each block, which runs on request."""
        laterals, h = [], images
        for index, h in enumerate(super().iterate_maps(images), start=-1):
            if index in LATERALS:
                laterals.append(h)
            yield h
        fine, coarse = laterals
        h = _upsampled_sum(h, self.latlayer1(coarse))
        yield h
        yield _upsampled_sum(h, self.latlayer2(fine))

    def fold_constants(self, dtype: torch.dtype) -> None:
        """Prepare the network to run in `dtype`. Call it once, after weights are loaded."""
        self.fold_batch_norms()
        cast_convolutions(self, dtype)


class StyleHead(nn.Module):
    """Maps to one code: convolutions that halve a map down to one pixel, then a linear layer."""

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for _ in range(halvings):
            self.convs.append(nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1))
            self.convs.append(nn.LeakyReLU())
        self.linear = nn.Linear(channels, channels)
        # The original's initial values; in training every pass scales the weights.
        nn.init.normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def fold_constants(self) -> None:
        self.linear.weight.mul_(1 / sqrt(self.linear.in_features))

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float32[Tensor, "n c"]:
        return self.linear(self.convs(x).flatten(1).float())


class StyleEncoder(PyramidEncoder):
    """The whole encoder of e4e: for every image `heads` codes of `channels` numbers."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels)
        halvings = (4 if i < COARSE else 5 if i < MIDDLE else 6 for i in range(heads))
        self.styles = nn.ModuleList(StyleHead(channels, count) for count in halvings)

    def codes(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Float32[Tensor, "n c"]]:
        """Yield the codes, without the average code, in the generator's order.

        A head runs when its code is requested. The first head gives the code of all layers; every
        other head gives an offset for its own layer.
        """
        maps = self.iterate_maps(images)
        source = deque(islice(maps, 1 + NUM_BOTTLENECKS), maxlen=1).pop()
        first, *others = self.styles
        common = first(source)
        yield common
        for index, head in enumerate(others, start=1):
            if index in (COARSE, MIDDLE):
                source = next(maps)
            yield common + head(source)

    def fold_constants(self, dtype: torch.dtype) -> None:
        super().fold_constants(dtype)
        for head in self.styles:
            assert isinstance(head, StyleHead)
            head.fold_constants()


class E4E(nn.Module):
    """Encoder and generator in the structure of e4e's files.

    Args:
        size: side of the images that the generator draws, in pixels.
        channels: channels of the deepest maps and of codes; 512 in all published networks.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.encoder = StyleEncoder(channels, num_codes(size))
        self.decoder = Generator(config_f_widths(size, channels), channels)
        self.latent_avg: Tensor
        self.register_buffer("latent_avg", torch.zeros(num_codes(size), channels))

    def fold_constants(self, dtype: torch.dtype) -> None:
        """Prepare the networks to run in `dtype`. Call it once, after weights are loaded."""
        self.encoder.fold_constants(dtype)
        self.decoder.fold_constants(dtype)

    def codes(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Float32[Tensor, "n c"]]:
        """Yield the generator's codes ("w+"), computed on request."""
        for code, average in zip(self.encoder.codes(images), self.latent_avg, strict=True):
            yield code + average

    def iterate_maps(self, images: Float[Tensor, "n 3 h w"]) -> Iterator[Tensor]:
        """Yield the generator's maps, its constant first, computed on request."""
        return self.decoder.iterate_maps(len(images), self.codes(images))


def _upsampled_sum(
    h: Float[Tensor, "n c _ _"], lateral: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    size = lateral.shape[-2:]
    return F.interpolate(h, size, mode="bilinear", align_corners=True).add_(lateral)


def check_settings(channels: int, input_size: int, largest: int | None = None) -> None:
    """Raise ConfigError for numbers that build no encoder, or a size that it cannot take."""
    if channels < 8 or channels % 8:
        raise ConfigError(
            f"`backbone.channels={channels}`: must be a multiple of 8; it is 512 in all published "
            "files of e4e."
        )
    if input_size < STRIDE or input_size % STRIDE or (largest and input_size > largest):
        limit = "" if largest is None else f", at most {largest}"
        raise ConfigError(
            f"`backbone.input_size={input_size}`: must be a multiple of {STRIDE}{limit}; encoders "
            "of e4e are trained on 256."
        )


def encoder_channels(shapes: Shapes) -> int:
    """Infer `channels` of the encoder. Raises ValueError for parameters of another network."""
    stem = shapes.get(MARKER, ())
    if len(stem) != 4:
        raise ValueError(f"there is no '{MARKER}' of 4 axes")
    return 8 * stem[0]
