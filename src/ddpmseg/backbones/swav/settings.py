"""The settings of a ResNet of SwAV."""

from dataclasses import dataclass, field

from ddpmseg.backbones.settings import WeightsConfig


@dataclass
class SwavConfig(WeightsConfig):
    """A ResNet of bottlenecks, from a file of SwAV or a bare state dict."""

    _target_: str = "ddpmseg.backbones.swav.SwavBackbone"
    channels: int = 64
    """Channels of the stem; those of all others are proportional: 64 for RN50, 128 for RN50w2."""
    stages: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    """Number of bottlenecks in each stage."""
