"""The schemas under `conf/backbone/`, one for each family of networks."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from ddpmseg.backbones.flags import UNetFlags
from ddpmseg.config.download import DownloadConfig


@dataclass
class BackboneConfig:
    """The frozen network."""

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class GuidedDiffusionConfig(DownloadConfig, BackboneConfig):
    """Any UNet of guided_diffusion."""

    _target_: str = "ddpmseg.backbones.guided_diffusion.GuidedDiffusionBackbone"
    checkpoint: str = MISSING
    """A .pt or .safetensors file with a bare state dict, 'bundled:NAME', or 'random'."""
    precision: str = "auto"
    """'32', 'bf16', '16' (float16), or 'auto': the fastest the device computes natively."""
    compile: bool = False
    """Run the network through torch.compile: faster passes for a minute or more of compiling, once
    per network and machine. Pays from about a thousand passes on a CPU."""
    seed: int = 0
    """Draws the weights of checkpoint=random."""
    unet: UNetFlags = field(default_factory=UNetFlags)


@dataclass
class PixelsConfig(BackboneConfig):
    """The image itself as the only feature: a control."""

    _target_: str = "ddpmseg.backbones.pixels.PixelsBackbone"
    image_size: int = 64
