"""The very deep VAE, read out at the blocks of its encoder and its decoder."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.backbones.vdvae.layout import Layout, read_layout
from ddpmseg.backbones.vdvae.network import VeryDeepVAE
from ddpmseg.errors import ConfigError
from ddpmseg.randomness import keyed_generator
from ddpmseg.weights.encoder_files import EncoderFormat
from ddpmseg.weights.shapes import Shapes

LATENTS = ("mean", "sampled")
COARSEST = 8
"""Side of the smallest maps among the default blocks: smaller ones do not resolve parts."""


def vdvae_settings(shapes: Shapes) -> dict[str, Any]:
    """Infer channels and biases. Raises ValueError for a missing parameter.

    The layout of the blocks and the scaling of images cannot be inferred.
    """
    for key in (
        "encoder.in_conv.weight",
        "encoder.enc_blocks.0.c1.weight",
        "decoder.dec_blocks.0.z_proj.weight",
    ):
        if len(shapes.get(key, ())) != 4:
            raise ValueError(f"there is no '{key}' of 4 axes")
    width = shapes["encoder.in_conv.weight"][0]
    biases = [shape[-1] for key, shape in shapes.items() if key.startswith("decoder.bias_xs.")]
    return {
        "width": width,
        "bottleneck_multiple": shapes["encoder.enc_blocks.0.c1.weight"][0] / width,
        "zdim": shapes["decoder.dec_blocks.0.z_proj.weight"][1],
        "no_bias_above": max(biases, default=0),
    }


def num_blocks(shapes: Shapes) -> tuple[int, int]:
    """Number of blocks of encoder and decoder."""

    def count(part: str) -> int:
        return len({key.split(".")[2] for key in shapes if key.startswith(part)})

    return count("encoder.enc_blocks."), count("decoder.dec_blocks.")


def _layout_advice(shapes: Shapes, settings: Mapping[str, Any]) -> str:
    layout = read_layout(settings["enc_blocks"], settings["dec_blocks"])
    expected, actual = (len(layout.encoder), len(layout.decoder)), num_blocks(shapes)
    if actual == expected:
        return ""
    return (
        f"It has {actual[0]} encoder and {actual[1]} decoder blocks, `backbone.enc_blocks` and "
        f"`backbone.dec_blocks` name {expected[0]} and {expected[1]}: set them as in its training."
    )


VDVAE = EncoderFormat(
    marker="encoder.enc_blocks.0.c1.weight",
    dropped=("decoder.out_net.",),
    settings=vdvae_settings,
    advice=_layout_advice,
)


class VdvaeBackbone(EncoderBackbone):
    """A very deep VAE with pretrained weights, or with random ones as a control.

    Blocks are the encoder's, then the decoder's, in the order of the forward pass: 0..67 and
    68..133 in the network of FFHQ-256. The decoder runs, if one of its blocks is requested, on the
    image's latents: the means of their posteriors, or samples. Images of another size are resized
    (bicubic), as the maps have fixed sizes.

    Args:
        name: shown in tables and messages.
        enc_blocks, dec_blocks: the layout, see `read_layout`.
        width, bottleneck_multiple, zdim: channels of the maps, their fraction between the
            convolutions of a block, channels of a latent.
        no_bias_above: side of the largest maps of the decoder whose start is learned.
        pixel_mean, pixel_std: shift and scale of pixel values 0..255 in training.
        latents: 'mean' of the posterior, or 'sampled' from it with noise that depends on `seed` and
            the block and is the same for all images.
        checkpoint: a file of the original code (a state dict, with or without the prefix
            'module.'), as .th, .pt or .safetensors, or 'random'. The likelihood's layer is ignored.
        precision: precision of the network, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random', and the noise of sampled latents.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for settings that build no network, CheckpointError for a file that does not
    fit the network or has another digest.
    Source: Child 2021 (arXiv 2011.10650); openai/vdvae, `vae.py`, `hps.py`, `data.py`.
    """

    family = "vdvae"
    network: VeryDeepVAE
    hooks = ("output",)
    block_kind, block_order = "block", "in forward order: encoder, then decoder"

    def __init__(
        self,
        name: str,
        enc_blocks: Sequence[str],
        dec_blocks: Sequence[str],
        width: int,
        bottleneck_multiple: float,
        zdim: int,
        no_bias_above: int,
        pixel_mean: float,
        pixel_std: float,
        checkpoint: str,
        latents: str = "mean",
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        layout = read_layout(enc_blocks, dec_blocks)
        middle = int(width * bottleneck_multiple)
        _check(width, middle, zdim, pixel_std, latents)
        # Set before the constructor, which reads them. All channels are shifted and scaled alike.
        self.mean, self.std = (pixel_mean / 255,) * 3, (pixel_std / 255,) * 3
        super().__init__(name, layout.image_size, precision, seed)
        self.layout, self.latents, self.zdim = layout, latents, zdim
        self.input_size = layout.image_size
        self.settings = {
            "enc_blocks": list(enc_blocks),
            "dec_blocks": list(dec_blocks),
            "width": width,
            "bottleneck_multiple": bottleneck_multiple,
            "zdim": zdim,
            "no_bias_above": no_bias_above,
            "pixel_mean": pixel_mean,
            "pixel_std": pixel_std,
        }
        network = self.with_weights(
            lambda: VeryDeepVAE(layout, width, middle, zdim, no_bias_above),
            checkpoint,
            VDVAE,
            sha256,
        )
        self.blocks = _block_specs(layout, width)
        self.network = network.to(self.dtype).to(memory_format=torch.channels_last)
        self.freeze()

    @property
    def default_blocks(self) -> tuple[int, ...]:
        """The last block of encoder and decoder at every side from 8 to half the image's.

        In the network of FFHQ-256 these are ten blocks, of 8 to 128 pixels. All blocks if there
        are no such sides.
        """
        last = self.layout.last_of_each_side()
        sides = range(COARSEST, self.image_size // 2 + 1)
        chosen = sorted(block for (_, side), block in last.items() if side in sides)
        return tuple(chosen) or super().default_blocks

    def identity(self) -> dict[str, Any]:
        # The seed is part of the identity only for sampled latents.
        sampled = {"latents_seed": self.seed} if self.latents == "sampled" else {}
        return super().identity() | sampled

    def iterate_maps(self, images: Tensor) -> Iterator[Tensor]:
        return self.network.maps(images, self._noise if self.latents == "sampled" else None)

    def _noise(self, block: int, side: int) -> Float[Tensor, "z s s"]:
        """Noise N(0, 1) for the latent of a decoder block, drawn on the CPU."""
        generator = keyed_generator(self.seed, "latents", block)
        noise = torch.randn(self.zdim, side, side, generator=generator)
        return noise.to(self.device, self.dtype)


def _block_specs(layout: Layout, width: int) -> tuple[BlockSpec, ...]:
    names = []
    for index, block in enumerate(layout.encoder):
        averaged = f", then averaged by {block.down}" if block.down > 1 else ""
        names.append(f"enc_blocks[{index}]{averaged}")
    for index, block in enumerate(layout.decoder):
        added = "" if block.mixin is None else f", adds {block.mixin}x{block.mixin}"
        names.append(f"dec_blocks[{index}]{added}")
    size = layout.image_size
    input_sides = [block.side for block in (*layout.encoder, *layout.decoder)]
    sides = zip(layout.sides(), input_sides, strict=True)
    return tuple(
        BlockSpec(index, width, size // output_side, width, size // input_side, names[index])
        for index, (output_side, input_side) in enumerate(sides)
    )


def _check(width: int, middle: int, zdim: int, pixel_std: float, latents: str) -> None:
    """Raise ConfigError for numbers that build no network, and for unknown latents."""
    if latents not in LATENTS:
        raise ConfigError(f"`backbone.latents={latents}`: must be one of {', '.join(LATENTS)}.")
    for key, value in (("width", width), ("zdim", zdim), ("pixel_std", pixel_std)):
        if value <= 0:
            raise ConfigError(f"`backbone.{key}={value}`: must be above 0.")
    if middle < 1:
        raise ConfigError(
            f"`backbone.bottleneck_multiple` leaves {middle} of `backbone.width={width}` channels "
            "between the convolutions of a block; it needs at least one, as 0.25 of 512 does."
        )
