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
class WeightsConfig(DownloadConfig, BackboneConfig):
    """A network whose weights lie in a file."""

    checkpoint: str = MISSING
    """A .pt, .pth or .safetensors file, 'bundled:NAME', or 'random': no file, before training."""
    precision: str = "auto"
    """'32', 'bf16', '16' (float16), or 'auto': the fastest the device computes natively."""
    seed: int = 0
    """Draws the weights of checkpoint=random."""


@dataclass
class GuidedDiffusionConfig(WeightsConfig):
    """Any UNet of guided_diffusion; its file holds a bare state dict."""

    _target_: str = "ddpmseg.backbones.guided_diffusion.GuidedDiffusionBackbone"
    compile: bool = False
    """Run the network through torch.compile: faster passes for a minute or more of compiling, once
    per network and machine. Pays from about a thousand passes on a CPU."""
    unet: UNetFlags = field(default_factory=UNetFlags)


@dataclass
class SwavConfig(WeightsConfig):
    """A ResNet of bottlenecks; its file is one of SwAV, or a bare state dict."""

    _target_: str = "ddpmseg.backbones.swav.SwavBackbone"
    channels: int = 64
    """Of the stem, to which all others are proportional: 64 for RN50, 128 for RN50w2."""
    stages: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    """Bottlenecks of each stage."""


@dataclass
class MaeConfig(WeightsConfig):
    """The vision transformer of a masked autoencoder; its file is one of MAE, or a bare state dict.
    Needs the extra 'networks'."""

    _target_: str = "ddpmseg.backbones.mae.MaeBackbone"
    image_size: int = 256
    """Side of the images it was trained on. `dataset.image_size` may be another: positions are
    stretched over it."""
    patch_size: int = 8
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    """Of every attention layer; leaves no trace in the file."""
    mlp_ratio: float = 4.0


@dataclass
class PixelsConfig(BackboneConfig):
    """The image itself as the only feature: a control."""

    _target_: str = "ddpmseg.backbones.pixels.PixelsBackbone"
    image_size: int = 64
