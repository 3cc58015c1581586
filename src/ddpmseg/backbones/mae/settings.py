"""The settings of the vision transformer of a masked autoencoder."""

from dataclasses import dataclass

from ddpmseg.backbones.settings import WeightsConfig


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
