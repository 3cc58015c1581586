"""The settings of a UNet of guided_diffusion."""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from ddpmseg.backbones.guided_diffusion.flags import UNetFlags
from ddpmseg.backbones.settings import WeightsConfig


@dataclass
class GuidedDiffusionConfig(WeightsConfig):
    """Any UNet of guided_diffusion."""

    fits_float16: ClassVar[bool] = True  # the package trains these networks in float16

    _target_: str = "ddpmseg.backbones.guided_diffusion.GuidedDiffusionBackbone"
    checkpoint: str = MISSING
    """A .pt or .safetensors file with a bare state dict, 'bundled:NAME', or 'random'."""
    compile: bool = False
    """Run the network through torch.compile: faster passes after compiling for a minute or more,
    once per network and machine. Worthwhile from about a thousand passes on a CPU."""
    unet: UNetFlags = field(default_factory=UNetFlags)

    def unet_flags(self) -> UNetFlags:
        return self.unet
