"""The settings of a backbone: what the dataclass that a backbone's module holds begins with.

A module of this package that holds a backbone holds its dataclass, too, with the class to build as
its `_target_`. It is the schema `MODULE_schema` of the files in `conf/backbone/`.
"""

from dataclasses import dataclass

from omegaconf import MISSING

from ddpmseg.download.settings import DownloadConfig


@dataclass
class BackboneConfig:
    """The frozen network."""

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class WeightsConfig(DownloadConfig, BackboneConfig):
    """A network that reads its weights from a file, or draws them.

    Its class takes `precision` already chosen and, beside the settings, `sha256`.
    """

    checkpoint: str = MISSING
    """A weight file (.pt, .pth, .safetensors), or 'random' for an untrained network. Some networks
    know further words."""
    precision: str = "auto"
    """'32', 'bf16', '16' (float16), or 'auto': the fastest the device computes natively."""
    seed: int = 0
    """Draws the weights of checkpoint=random."""
