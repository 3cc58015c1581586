"""The very deep VAE, with the original code's parameter names, run block by block."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.backbones.vdvae.layout import DecoderBlockSpec, EncoderBlockSpec, Layout

Noise = Callable[[int, int], Tensor]
"""(decoder block, side of its maps) -> noise N(0, 1), (zdim, side, side), for all images."""


class Bottleneck(nn.Module):
    """Four convolutions, each after a GELU, without normalisation.

    Kernels are 1, 3, 3 and 1 pixels wide, and all 1 on maps of one or two pixels.
    """

    def __init__(self, in_channels: int, middle: int, out_channels: int, side: int) -> None:
        super().__init__()
        kernel = 3 if side > 2 else 1
        self.c1 = _convolution(in_channels, middle)
        self.c2 = _convolution(middle, middle, kernel)
        self.c3 = _convolution(middle, middle, kernel)
        self.c4 = _convolution(middle, out_channels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return self.after_first(self.c1(F.gelu(x)))

    def after_first(self, h: Float[Tensor, "n m h w"]) -> Float[Tensor, "n d h w"]:
        """Continue from the output of the first convolution."""
        for convolution in (self.c2, self.c3, self.c4):
            h = convolution(F.gelu(h))
        return h


class EncoderBlock(Bottleneck):
    """A residual block; average pooling may follow."""

    def __init__(self, width: int, middle: int, spec: EncoderBlockSpec) -> None:
        super().__init__(width, middle, width, spec.side)
        self.down = spec.down

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _ _"]:
        out = super().forward(x).add_(x)
        return F.avg_pool2d(out, self.down) if self.down > 1 else out


class DecoderBlock(nn.Module):
    """Adds a latent and a residual of the prior to its maps.

    `enc` computes the posterior from these maps and the encoder's, `prior` the prior and a
    residual. For a given image only the residual is used.
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
        """The maps after this block.

        skip: the encoder's maps after a GELU. noise: draws the latent; None: the posterior's mean.
        """
        active = F.gelu(x)
        # c1 of `enc` takes (decoder, encoder), concatenated. `skip` is the same for all blocks of a
        # side, so the caller activates it once, and two products replace the concatenation.
        decoder_weight, encoder_weight = self.enc.c1.weight.split(x.shape[1], dim=1)
        h = F.conv2d(active, decoder_weight, self.enc.c1.bias).add_(F.conv2d(skip, encoder_weight))
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
            EncoderBlock(width, middle, spec) for spec in layout.encoder
        )


class Decoder(nn.Module):
    """The maps of a side start from a learned `bias_xs`, or zeros above `no_bias_above` pixels."""

    def __init__(
        self, layout: Layout, width: int, middle: int, zdim: int, no_bias_above: int
    ) -> None:
        super().__init__()
        self.specs: tuple[DecoderBlockSpec, ...] = layout.decoder
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(width, middle, zdim, spec.side) for spec in layout.decoder
        )
        self.bias_xs = nn.ParameterList(
            nn.Parameter(torch.zeros(1, width, side, side))
            for side in layout.decoder_sides
            if side <= no_bias_above
        )
        # They follow the last map. No map needs them, but files hold them.
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))

    def maps(
        self, skips: dict[int, Float[Tensor, "n c _ _"]], noise: Noise | None
    ) -> Iterator[Tensor]:
        """The map after each block; `skips`: the encoder's last map of every side."""
        latest = {bias.shape[-1]: bias for bias in self.bias_xs}
        active: dict[int, Tensor] = {}
        for index, (spec, block) in enumerate(zip(self.specs, self.dec_blocks, strict=True)):
            side = spec.side
            if side not in active:
                active[side] = F.gelu(skips.pop(side))
            x = latest[side] if side in latest else torch.zeros_like(active[side])
            if spec.mixin is not None:
                # Nearest neighbour: every value fills a square.
                x = x + F.interpolate(latest[spec.mixin], scale_factor=side // spec.mixin)
            block_noise = None if noise is None else noise(index, side)
            x = block(x.expand_as(active[side]), active[side], block_noise)
            latest[side] = x
            yield x


class VeryDeepVAE(nn.Module):
    """Encoder and decoder, without the output layer that gives the likelihood of an image.

    Args:
        layout: the blocks.
        width: channels of every map.
        middle: channels between the convolutions of a block.
        zdim: channels of every latent.
        no_bias_above: side of the largest maps whose start is learned.

    Initial weights are the original's: biases are zero, the last layer of a residual branch and the
    projection of a latent are scaled by the number of blocks, and the prior's residual is zero.
    Source: Child 2021 (arXiv 2011.10650); openai/vdvae, `vae.py`.
    """

    def __init__(
        self, layout: Layout, width: int, middle: int, zdim: int, no_bias_above: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(layout, width, middle)
        self.decoder = Decoder(layout, width, middle, zdim, no_bias_above)
        encoder_scale, decoder_scale = (
            len(part) ** -0.5 for part in (layout.encoder, layout.decoder)
        )
        with torch.no_grad():
            for block in self.encoder.enc_blocks.children():
                block.get_parameter("c4.weight").mul_(encoder_scale)
            for block in self.decoder.dec_blocks.children():
                for name in ("z_proj.weight", "resnet.c4.weight"):
                    block.get_parameter(name).mul_(decoder_scale)
                block.get_parameter("prior.c4.weight").zero_()

    def maps(
        self, images: Float[Tensor, "n 3 s s"], noise: Noise | None = None
    ) -> Iterator[Tensor]:
        """Yield the map before the first block, then the map after each block.

        A block of encoder or decoder runs when its map is requested. Images are shifted and scaled
        as in training. `noise` draws latents from the posterior; None: its mean.
        """
        h = self.encoder.in_conv(images)
        yield h
        skips = {h.shape[-1]: h}
        for block in self.encoder.enc_blocks:
            h = block(h)
            skips[h.shape[-1]] = h
            yield h
        yield from self.decoder.maps(skips, noise)


def _convolution(in_channels: int, out_channels: int, kernel: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of maps."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.zeros_(convolution.get_parameter("bias"))
    return convolution
