"""The encoders that ALAE trained with its StyleGAN generators, read out at their instance norms."""

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
    """The encoder of a StyleALAE, or its initial weights as a control.

    Blocks are its instance norms in the order of the forward pass, two for each level: the even
    ones at the level's own resolution, the odd ones behind the convolution that halves it, which
    are the outputs of the original's encode blocks. Images enter at the level of their side,
    through the 1x1 convolution of that level, and blocks are numbered from there: on an image of
    256 pixels a network of 256 and one of 1024 both have 14.

    The paper says only that it reads the encoder. All blocks give 4512 features per pixel for the
    published network of bedrooms and 5440 for that of FFHQ at 256 pixels, the odd ones 2496 and
    2944.

    Args:
        name: shown in tables and messages.
        levels, channels, max_channels, latent_size, image_size, input_size: see `AlaeConfig`.
        checkpoint: a file of ALAE (`models.discriminator_s` within), a bare state dict as .pt, .pth
            or .safetensors, or 'random'. The generator and the mappings are left out.
        precision: in which the network runs, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: of the weight file; None: as recorded where it was downloaded, else any.

    Raises ConfigError for settings that build no network and sizes at which it takes no images,
    CheckpointError for a file that does not fit the network, or is another than expected.
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

    def passed(self, images: Tensor) -> Iterator[Tensor]:
        return self.network.layers(images)


def level_sides(levels: int) -> list[int]:
    """Sides of the images that each level takes, in pixels, from the largest down to 4."""
    return [2 ** (levels + 1 - level) for level in range(levels)]


def input_level(levels: int, image_size: int, input_size: int | None) -> int:
    """The level, 0 = the largest, at which images of `image_size` pixels enter.

    They are resized to `input_size` before; None: to the side of the next level that is no smaller.
    Raises ConfigError for images larger than the network, and a side that is no level's.
    """
    sides = level_sides(levels)
    if input_size is None:
        if image_size > sides[0]:
            raise ConfigError(
                f"images of {image_size} pixels are larger than the network, which takes {sides[0]}"
                f": `backbone.input_size={sides[0]}` has them resized; or set "
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
    """All blocks of a network of that many levels, see `input_level`."""
    return list(range(2 * (levels - input_level(levels, image_size, input_size))))


def _check(settings: Mapping[str, int]) -> None:
    """ConfigError for numbers that build no encoder."""
    for key, value in settings.items():
        if value < 1:
            raise ConfigError(f"`backbone.{key}={value}`: must be above 0.")
    if settings["max_channels"] < settings["channels"]:
        raise ConfigError(
            f"`backbone.max_channels={settings['max_channels']}`: must be at least "
            f"`backbone.channels` ({settings['channels']})."
        )
