"""The settings of the encoder of a StyleALAE."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import II

from ddpmseg.backbones.settings import WeightsConfig


def _layers(levels: int, image_size: int, input_size: int | None) -> list[int]:
    from ddpmseg.backbones.alae.backbone import layer_numbers

    return layer_numbers(levels, image_size, input_size)


@dataclass
class AlaeConfig(WeightsConfig):
    """The encoder of a StyleALAE, from a file of ALAE or a bare state dict."""

    resolvers: ClassVar[Mapping[str, Callable[..., Any]]] = {"alae_layers": _layers}

    _target_: str = "ddpmseg.backbones.alae.AlaeBackbone"
    levels: int = 7
    """Number of levels, each of which halves the image, down to 2x2: 7 for networks of 256 pixels,
    9 for those of 1024."""
    channels: int = 32
    """Channels of the largest level; they double from level to level."""
    max_channels: int = 512
    """Limit of that doubling."""
    latent_size: int = 512
    """Length of the latent code, which is not computed but determines parameters of the file."""
    image_size: int = II("dataset.image_size")
    """Side of the dataset's images, in pixels."""
    input_size: int | None = None
    """Side in pixels to which images are resized, that of the level where they enter; null:
    `image_size`, rounded up to the next level's."""
