"""The settings of the networks of e4e and StyleGAN2."""

from dataclasses import dataclass

from ddpmseg.backbones.settings import WeightsConfig


@dataclass
class GanEncoderConfig(WeightsConfig):
    """The encoder of e4e, which inverts a GAN, from a file of e4e or a bare state dict."""

    _target_: str = "ddpmseg.backbones.gan.GanEncoderBackbone"
    channels: int = 512
    """Channels of its deepest maps; those of all others are proportional."""
    input_size: int = 256
    """Side in pixels to which images are resized, a multiple of 16; it was trained on 256."""


@dataclass
class GanInversionConfig(WeightsConfig):
    """The generator of StyleGAN2 on the codes that e4e finds, from a file of e4e."""

    _target_: str = "ddpmseg.backbones.gan.GanInversionBackbone"
    size: int = 256
    """Side of the images that the generator draws, in pixels."""
    channels: int = 512
    """Channels of its deepest maps; those of all others are proportional."""
    input_size: int = 256
    """Side in pixels to which images are resized for the encoder, a multiple of 16 up to 256."""
