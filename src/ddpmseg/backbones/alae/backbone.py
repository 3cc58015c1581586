"""The encoders of StyleALAE, read out at their instance norms."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from ddpmseg.backbones.alae.style_encoder import StyleEncoder, style_encoder_settings
from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.errors import ConfigError
from ddpmseg.weights.encoder_files import EncoderFormat

ALAE = EncoderFormat(
    marker="encode_block.0.conv_1.weight", dropped=(), settings=style_encoder_settings
)


class AlaeBackbone(EncoderBackbone):
    """The encoder of a StyleALAE with pretrained weights, or with random ones as a control.

    Blocks are its instance norms in the order of the forward pass, two per level: even ones at the
    level's resolution, odd ones after the convolution that halves it (the outputs of the original's
    encode blocks). Images enter at the level of their side, through its 1x1 convolution, and
    numbers start there: on images of 256 pixels networks of 256 and 1024 both have 14 blocks.

    The paper says only that it reads the encoder. All blocks give 4512 features per pixel in the
    published network of bedrooms and 5440 in that of FFHQ at 256 pixels, the odd ones 2496 and
    2944.

    Args:
        name: shown in tables and messages.
        levels, channels, max_channels, latent_size, image_size, input_size: see `AlaeConfig`.
        checkpoint: a file of ALAE (with `models.discriminator_s`), a bare state dict as .pt, .pth
            or .safetensors, or 'random'. The generator and the mappings are ignored.
        precision: precision of the network, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for settings that build no network and sizes that it cannot take,
    CheckpointError for a file that does not fit the network or has another digest.
    Source: Pidhorskyi et al. 2020 (arXiv 2004.04467), as a baseline of Baranchuk et al. 2022.
    """

    family = "alae"
    mean = std = (0.5, 0.5, 0.5)
    block_kind = "encoder layer"
    network: StyleEncoder

    def __init__(
        self,
        name: str,
        levels: int,
        channels: int,
        max_channels: int,
        latent_size: int,
        image_size: int,
        checkpoint: str,
        input_size: int | None = None,
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        settings = {
            "levels": levels,
            "channels": channels,
            "max_channels": max_channels,
            "latent_size": latent_size,
        }
        _check(settings)
        level = input_level(levels, image_size, input_size)
        super().__init__(name, level_sides(levels)[0], precision, seed)
        self.input_size = level_sides(levels)[level]
        self.settings = {**settings, "input_size": self.input_size}
        encoder = self.with_weights(partial(StyleEncoder, **settings), checkpoint, ALAE, sha256)
        encoder.enter_at(level)
        self.blocks = encoder.layer_specs()
        self.network = encoder.to(self.dtype).to(memory_format=torch.channels_last)
        self.freeze()

    def iterate_maps(self, images: Tensor) -> Iterator[Tensor]:
        return self.network.layers(images)


def level_sides(levels: int) -> list[int]:
    """Side in pixels of the images that each level takes, from the largest down to 4."""
    return [2 ** (levels + 1 - level) for level in range(levels)]


def input_level(levels: int, image_size: int, input_size: int | None) -> int:
    """The level, 0 = the largest, at which images of `image_size` pixels enter.

    They are resized to `input_size` first; None: to the smallest level that is not smaller. Raises
    ConfigError for images larger than the network, and for an `input_size` of no level.
    """
    sides = level_sides(levels)
    if input_size is None:
        if image_size > sides[0]:
            raise ConfigError(
                f"images of {image_size} pixels are larger than the network, which takes {sides[0]}"
                f": set `backbone.input_size={sides[0]}` to resize them, or "
                f"`dataset.image_size={sides[0]}`."
            )
        return max(level for level, side in enumerate(sides) if side >= image_size)
    if input_size not in sides:
        raise ConfigError(
            f"`backbone.input_size={input_size}`: a network of {levels} levels takes images of "
            f"{', '.join(map(str, sides))} pixels; null rounds `dataset.image_size` up to one."
        )
    return sides.index(input_size)


def layer_numbers(levels: int, image_size: int, input_size: int | None) -> list[int]:
    """All block numbers of a network of that many levels, see `input_level`."""
    _check_positive({"levels": levels})
    return list(range(2 * (levels - input_level(levels, image_size, input_size))))


def _check_positive(settings: Mapping[str, int]) -> None:
    for key, value in settings.items():
        if value < 1:
            raise ConfigError(f"`backbone.{key}={value}`: must be above 0.")


def _check(settings: Mapping[str, int]) -> None:
    """Raise ConfigError for numbers that build no encoder."""
    _check_positive(settings)
    if settings["max_channels"] < settings["channels"]:
        raise ConfigError(
            f"`backbone.max_channels={settings['max_channels']}`: must be at least "
            f"`backbone.channels` ({settings['channels']})."
        )
