"""The settings of the control whose feature is the image."""

from dataclasses import dataclass

from ddpmseg.backbones.settings import BackboneConfig


@dataclass
class PixelsConfig(BackboneConfig):
    """The image itself as the only feature: a control."""

    _target_: str = "ddpmseg.backbones.pixels.PixelsBackbone"
    image_size: int = 64
