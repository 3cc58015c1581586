"""The schemas under `conf/backbone/`, one for each family of networks."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from ddpmseg.backbones.unet import UNetFlags
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
class DiffusersConfig(BackboneConfig):
    """Any unconditional UNet2DModel of the diffusers library."""

    _target_: str = "ddpmseg.backbones.diffusers.DiffusersBackbone"
    checkpoint: str = MISSING
    """A folder as `save_pretrained` writes it, of the network or of a DDPM pipeline, or a model of
    the Hugging Face hub, OWNER/NAME."""
    noise_schedule: str | None = None
    """'linear', 'scaled_linear' or 'squaredcos_cap_v2', each of 1000 steps; null: that of the
    checkpoint's scheduler_config.json."""
    untrained: bool = False
    """Leave out the weights: a control. Of the checkpoint only config.json is read."""
    seed: int = 0
    """Draws the weights of an untrained network."""
    precision: str = "auto"
    compile: bool = False
    """These two as for guided_diffusion."""
    download: bool = False
    """Fetch a model of the hub that the hub's cache lacks."""


@dataclass
class PixelsConfig(BackboneConfig):
    """The image itself as the only feature: a control."""

    _target_: str = "ddpmseg.backbones.pixels.PixelsBackbone"
    image_size: int = 64
