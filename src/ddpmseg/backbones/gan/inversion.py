"""A GAN's maps of the image that an encoder finds for it: the paper's baseline "GAN Inversion"."""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.backbones.gan.e4e import E4E, LARGEST_INPUT, MARKER, check_settings, encoder_channels
from ddpmseg.backbones.gan.stylegan2 import config_f_widths
from ddpmseg.errors import ConfigError
from ddpmseg.weights.encoder_files import EncoderFormat
from ddpmseg.weights.shapes import Shapes

HEAD_BIAS = re.compile(r"encoder\.styles\.\d+\.linear\.bias")


def gan_inversion_settings(shapes: Shapes) -> dict[str, Any]:
    """`size` and `channels` of such a network; ValueError where its parameters are none's."""
    channels, layers = encoder_channels(shapes), 0
    while f"decoder.convs.{layers}.conv.weight" in shapes:
        layers += 1
    if layers < 2 or layers % 2:
        raise ValueError(f"its generator has {layers} layers 'decoder.convs'")
    return {"size": 4 << layers // 2, "channels": channels}


def average_code(content: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`latent_avg`, which a file of e4e keeps beside its state dict; zeros where it is not used.

    Raises ValueError for a file of another encoder of the same layout.
    """
    options = content.get("opts")
    options = vars(options) if isinstance(options, Namespace) else options
    options = options if isinstance(options, Mapping) else {}
    kind = options.get("encoder_type", "Encoder4Editing")
    if kind != "Encoder4Editing":
        raise ValueError(
            f"its encoder is a {kind}, whose codes are put together in another way than those of "
            "e4e (Encoder4Editing)"
        )
    average = content.get("latent_avg")
    if not options.get("start_from_latent_avg", True):
        heads = [value for key, value in state.items() if HEAD_BIAS.fullmatch(key)]
        average = torch.zeros(len(heads), heads[0].numel()) if heads else None
    return {"latent_avg": average} if isinstance(average, Tensor) else {}


GAN_INVERSION = EncoderFormat(
    marker=MARKER,
    dropped=("decoder.style.", "decoder.to_rgb"),
    settings=gan_inversion_settings,
    extra=average_code,
)


class GanInversionBackbone(EncoderBackbone):
    """The generator of StyleGAN2 on the codes that e4e finds for an image.

    Block 0 is the generator's learned constant, which is the same for every image; blocks 1, 2, ...
    are its styled convolutions in the order of the forward pass, after noise, bias and activation:
    one at 4 pixels, two at every doubled size. The noise is the constant one of the file. The
    paper does not say which it read; by default all convolutions are, as DatasetGAN does (5376
    features per pixel of a generator of 256 pixels), and EditGAN reads the constant as well.

    Strides count in the image that the generator draws. Its maps lie over the given image whatever
    the sizes of both; those that are larger are reduced to it, see `encoder.reduced`.

    Args:
        name: shown in tables and messages.
        size: side of the images that the generator draws, in pixels.
        channels: of its deepest maps, and of codes; 512 in all published files.
        input_size: side, in pixels, to which images are resized for the encoder; it was trained on
            256.
        checkpoint: a file of e4e (`state_dict` and `latent_avg` within, keys beginning with
            'encoder.' and 'decoder.'), a state dict with `latent_avg` among the others as .pt, .pth
            or .safetensors, or 'random'. What draws codes from noise and colours from maps is left
            out.
        precision: in which the network runs, a key of `PRECISIONS`. Codes and styles are computed
            in 32 bits in any case.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: of the weight file; None: as recorded where it was downloaded, else any.

    Raises ConfigError for settings that build no network, CheckpointError for a file that does not
    fit it, or is another than expected.
    Source: Tov et al. 2021 (arXiv 2102.02766), omertov/encoder4editing; layers as in Zhang et al.
    2021 (DatasetGAN, arXiv 2104.06490) and Ling et al. 2021 (EditGAN, arXiv 2111.03186).
    """

    family = "gan_inversion"
    mean = std = (0.5, 0.5, 0.5)
    resampling = "bilinear"  # as Pillow in the original code
    hooks = ("output",)
    block_kind = "generator layer"
    network: E4E

    def __init__(
        self,
        name: str,
        size: int,
        channels: int,
        input_size: int,
        checkpoint: str,
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        super().__init__(name, input_size, precision, seed)
        check_settings(channels, input_size, LARGEST_INPUT)
        if size < 8 or size.bit_count() != 1:
            raise ConfigError(
                f"`backbone.size={size}`: must be a power of two, at least 8; published files of "
                "e4e have 256, 512 and 1024."
            )
        self.settings = {"size": size, "channels": channels, "input_size": input_size}
        self.input_size, self._encoder_input = size, input_size
        build = partial(E4E, size, channels)
        self.network = self.with_weights(build, checkpoint, GAN_INVERSION, sha256).eval()
        self.network.fold_constants(self.dtype)
        self.blocks = _block_specs(config_f_widths(size, channels))
        self.freeze()

    def seen(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        return self.resized(images, self._encoder_input)

    def passed(self, images: Tensor) -> Iterator[Tensor]:
        yield images  # before block 0 there is nothing else, and it is never read
        yield from self.network.passed(images)


def _block_specs(widths: list[int]) -> tuple[BlockSpec, ...]:
    """Of the constant, and of the layers of a generator with these channels at 4, 8, ... pixels."""
    names = ["constant", "conv1", *(f"convs[{index}]" for index in range(2 * len(widths) - 2))]
    specs = []
    for index, name in enumerate(names):
        level = index // 2
        channels, stride = widths[level], 2 ** (len(widths) - 1 - level)
        specs.append(BlockSpec(index, channels, stride, channels, stride, name))
    return tuple(specs)
