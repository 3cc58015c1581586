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
    """The encoder of a StyleALAE; its file is one of ALAE, or a bare state dict."""

    resolvers: ClassVar[Mapping[str, Callable[..., Any]]] = {"alae_layers": _layers}

    _target_: str = "ddpmseg.backbones.alae.AlaeBackbone"
    levels: int = 7
    """Each halves the image, down to 2x2: 7 for networks of 256 pixels, 9 for those of 1024."""
    channels: int = 32
    """Of the largest level; they double from level to level ..."""
    max_channels: int = 512
    """... up to this."""
    latent_size: int = 512
    """Of the latent code, which is not computed: it shows in the file only."""
    image_size: int = II("dataset.image_size")
    """Side of the images that are given, in pixels."""
    input_size: int | None = None
    """Side, in pixels, that they are resized to, that of one of the levels, where they enter; null:
    `image_size`, rounded up to the next level's."""
