"""The very deep VAE: parameters named as in the original code, maps one block at a time."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.backbones.vdvae.layout import DecoderPlace, EncoderPlace, Layout

Noise = Callable[[int, int], Tensor]
"""(decoder block, side of its maps) -> N(0, 1) of shape (zdim, side, side) for all images."""


class Bottleneck(nn.Module):
    """Four convolutions, each of them behind a GELU; there is no normalisation.

    Kernels are 1, 3, 3 and 1 pixels wide, and all 1 on maps of one or two pixels.
    """

    def __init__(self, entering: int, middle: int, leaving: int, side: int) -> None:
        super().__init__()
        kernel = 3 if side > 2 else 1
        self.c1 = _convolution(entering, middle)
        self.c2 = _convolution(middle, middle, kernel)
        self.c3 = _convolution(middle, middle, kernel)
        self.c4 = _convolution(middle, leaving)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return self.after_first(self.c1(F.gelu(x)))

    def after_first(self, h: Float[Tensor, "n m h w"]) -> Float[Tensor, "n d h w"]:
        """From what the first convolution leaves."""
        for convolution in (self.c2, self.c3, self.c4):
            h = convolution(F.gelu(h))
        return h


class EncoderBlock(Bottleneck):
    """A residual block, whose sum is averaged where its maps become smaller."""

    def __init__(self, width: int, middle: int, place: EncoderPlace) -> None:
        super().__init__(width, middle, width, place.side)
        self.down = place.down

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _ _"]:
        out = super().forward(x).add_(x)
        return F.avg_pool2d(out, self.down) if self.down > 1 else out


class DecoderBlock(nn.Module):
    """Adds a latent, and what the prior expects besides, to its maps.

    `enc` gives the posterior from these maps and the encoder's, `prior` the prior and a residual.
    Of the prior only that residual enters the maps of a given image.
    """

    def __init__(self, width: int, middle: int, zdim: int, side: int) -> None:
        super().__init__()
        self.zdim = zdim
        self.enc = Bottleneck(2 * width, middle, 2 * zdim, side)
        self.prior = Bottleneck(width, middle, 2 * zdim + width, side)
        self.z_proj = _convolution(zdim, width)
        self.resnet = Bottleneck(width, middle, width, side)

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        skip: Float[Tensor, "n c h w"],
        noise: Float[Tensor, "z h w"] | None,
    ) -> Float[Tensor, "n c h w"]:
        """The maps after this block; `skip`: the encoder's, behind a GELU.

        The latent is the posterior's mean where there is no `noise`.
        """
        active = F.gelu(x)
        # c1 of `enc` takes (decoder, encoder), concatenated. The encoder's part is the same for all
        # blocks of a side, so it comes activated, and no concatenation is written down.
        of_decoder, of_encoder = self.enc.c1.weight.split(x.shape[1], dim=1)
        h = F.conv2d(active, of_decoder, self.enc.c1.bias).add_(F.conv2d(skip, of_encoder))
        z, log_sigma = self.enc.after_first(h).chunk(2, dim=1)
        if noise is not None:
            z = torch.addcmul(z, log_sigma.exp(), noise)
        residual = self.prior.after_first(self.prior.c1(active))[:, 2 * self.zdim :]
        x = (x + residual).add_(self.z_proj(z))
        return self.resnet(x).add_(x)


class Encoder(nn.Module):
    def __init__(self, layout: Layout, width: int, middle: int) -> None:
        super().__init__()
        self.in_conv = _convolution(3, width, 3)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(width, middle, place) for place in layout.encoder
        )


class Decoder(nn.Module):
    """`bias_xs` are the maps it begins with, up to those of `no_bias_above` pixels; larger ones
    begin as zeros."""

    def __init__(
        self, layout: Layout, width: int, middle: int, zdim: int, no_bias_above: int
    ) -> None:
        super().__init__()
        self.places: tuple[DecoderPlace, ...] = layout.decoder
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(width, middle, zdim, place.side) for place in layout.decoder
        )
        self.bias_xs = nn.ParameterList(
            nn.Parameter(torch.zeros(1, width, side, side))
            for side in layout.decoder_sides
            if side <= no_bias_above
        )
        # Between the last map and the likelihood of an image: no map needs them, but a file has
        # them.
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))

    def maps(
        self, skips: dict[int, Float[Tensor, "n c _ _"]], noise: Noise | None
    ) -> Iterator[Tensor]:
        """The map after each block; `skips`: the encoder's last map of every side."""
        latest = {bias.shape[-1]: bias for bias in self.bias_xs}
        active: dict[int, Tensor] = {}
        for index, (place, block) in enumerate(zip(self.places, self.dec_blocks, strict=True)):
            side = place.side
            if side not in active:
                active[side] = F.gelu(skips.pop(side))
            x = latest[side] if side in latest else torch.zeros_like(active[side])
            if place.mixin is not None:
                # Nearest neighbour: every value fills a square.
                x = x + F.interpolate(latest[place.mixin], scale_factor=side // place.mixin)
            drawn = None if noise is None else noise(index, side)
            x = block(x.expand_as(active[side]), active[side], drawn)
            latest[side] = x
            yield x


class VeryDeepVAE(nn.Module):
    """Encoder and decoder, without the output layer that gives the likelihood of an image.

    Args:
        layout: where its blocks stand.
        width: channels of every map.
        middle: channels between the convolutions of a block.
        zdim: channels of every latent.
        no_bias_above: side of the largest maps whose start is learned.

    Initial weights are those of the original: biases zero, what ends a residual branch or brings a
    latent in scaled by the number of blocks, the prior's residual zero.
    Source: Child 2021 (arXiv 2011.10650); openai/vdvae, `vae.py`.
    """

    def __init__(
        self, layout: Layout, width: int, middle: int, zdim: int, no_bias_above: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(layout, width, middle)
        self.decoder = Decoder(layout, width, middle, zdim, no_bias_above)
        encoder_share, decoder_share = (
            len(part) ** -0.5 for part in (layout.encoder, layout.decoder)
        )
        with torch.no_grad():
            for block in self.encoder.enc_blocks.children():
                block.get_parameter("c4.weight").mul_(encoder_share)
            for block in self.decoder.dec_blocks.children():
                for name in ("z_proj.weight", "resnet.c4.weight"):
                    block.get_parameter(name).mul_(decoder_share)
                block.get_parameter("prior.c4.weight").zero_()

    def maps(
        self, images: Float[Tensor, "n 3 s s"], noise: Noise | None = None
    ) -> Iterator[Tensor]:
        """The map before the first block, then that after each block of encoder and decoder.

        A block runs once the map after it is asked for. Images are shifted and scaled as the
        network was trained. `noise` draws latents from the posterior; None: they are its mean.
        """
        h = self.encoder.in_conv(images)
        yield h
        skips = {h.shape[-1]: h}
        for block in self.encoder.enc_blocks:
            h = block(h)
            skips[h.shape[-1]] = h
            yield h
        yield from self.decoder.maps(skips, noise)


def _convolution(entering: int, leaving: int, kernel: int = 1) -> nn.Conv2d:
    """One that keeps the size of maps."""
    convolution = nn.Conv2d(entering, leaving, kernel, padding=kernel // 2)
    nn.init.zeros_(convolution.get_parameter("bias"))
    return convolution
