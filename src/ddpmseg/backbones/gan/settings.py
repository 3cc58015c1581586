"""The settings of the networks made of e4e and StyleGAN2."""

from dataclasses import dataclass

from ddpmseg.backbones.settings import WeightsConfig


@dataclass
class GanEncoderConfig(WeightsConfig):
    """The encoder of e4e, which inverts a GAN; its file is one of e4e, or a bare state dict."""

    _target_: str = "ddpmseg.backbones.gan.GanEncoderBackbone"
    channels: int = 512
    """Of its deepest maps, to which all others are proportional."""
    input_size: int = 256
    """Side, in pixels, that images are resized to for it, a multiple of 16; those of its training
    had 256."""


@dataclass
class GanInversionConfig(WeightsConfig):
    """The generator of StyleGAN2 on the codes that e4e finds; its file is one of e4e."""

    _target_: str = "ddpmseg.backbones.gan.GanInversionBackbone"
    size: int = 256
    """Side, in pixels, of the images that the generator draws."""
    channels: int = 512
    """Of its deepest maps, to which all others are proportional."""
    input_size: int = 256
    """Side, in pixels, that images are resized to for the encoder, a multiple of 16 up to 256."""
