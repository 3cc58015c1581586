"""A GAN's maps on the codes of an inverted image: the paper's baseline "GAN Inversion"."""

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
    """Infer `size` and `channels`. Raises ValueError for parameters of another network."""
    channels, layers = encoder_channels(shapes), 0
    while f"decoder.convs.{layers}.conv.weight" in shapes:
        layers += 1
    if layers < 2 or layers % 2:
        raise ValueError(f"its generator has {layers} layers 'decoder.convs'")
    return {"size": 4 << layers // 2, "channels": channels}


def average_code(content: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`latent_avg`, which lies outside the state dict in e4e's files; zeros if it is not used.

    Raises ValueError for a file of another encoder with the same parameters.
    """
    options = content.get("opts")
    options = vars(options) if isinstance(options, Namespace) else options
    options = options if isinstance(options, Mapping) else {}
    kind = options.get("encoder_type", "Encoder4Editing")
    if kind != "Encoder4Editing":
        raise ValueError(
            f"its encoder is a {kind}, which combines codes in another way than e4e "
            "(Encoder4Editing)"
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
    paper does not say which layers it read; the default is all convolutions, as in DatasetGAN (5376
    features per pixel of a generator of 256 pixels). EditGAN also reads the constant.

    Strides refer to the image that the generator draws. Its maps cover the input image, whatever
    the sizes of both; larger maps are reduced to the image's size, see `encoder.limit_size`.

    Args:
        name: shown in tables and messages.
        size: side of the images that the generator draws, in pixels.
        channels: channels of its deepest maps and of codes; 512 in all published files.
        input_size: side in pixels to which images are resized for the encoder; it was trained on
            256.
        checkpoint: a file of e4e (with `state_dict` and `latent_avg`, keys beginning with
            'encoder.' and 'decoder.'), a state dict that includes `latent_avg` as .pt, .pth or
            .safetensors, or 'random'. The mapping from noise to codes and the layers that turn maps
            into colours are ignored.
        precision: precision of the network, a key of `PRECISIONS`. Codes and styles are always
            computed in 32 bits.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for settings that build no network, CheckpointError for a file that does not
    fit the network or has another digest.
    Source: Tov et al. 2021 (arXiv 2102.02766), omertov/encoder4editing; layers as in Zhang et al.
    2021 (DatasetGAN, arXiv 2104.06490) and Ling et al. 2021 (EditGAN, arXiv 2111.03186).
    """

    family = "gan_inversion"
    mean = std = (0.5, 0.5, 0.5)
    resampling = "bilinear"  # Pillow's in the original code
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

    def fit_input(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        return self.resized(images, self._encoder_input)

    def iterate_maps(self, images: Tensor) -> Iterator[Tensor]:
        yield images  # the input of block 0, which is never read
        yield from self.network.iterate_maps(images)


def _block_specs(widths: list[int]) -> tuple[BlockSpec, ...]:
    """The constant and the layers of a generator with these channels at 4, 8, ... pixels."""
    names = ["constant", "conv1", *(f"convs[{index}]" for index in range(2 * len(widths) - 2))]
    specs = []
    for index, name in enumerate(names):
        level = index // 2
        channels, stride = widths[level], 2 ** (len(widths) - 1 - level)
        specs.append(BlockSpec(index, channels, stride, channels, stride, name))
    return tuple(specs)
