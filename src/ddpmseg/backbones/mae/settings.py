"""The settings of the vision transformer of a masked autoencoder."""

from dataclasses import dataclass

from ddpmseg.backbones.settings import WeightsConfig


@dataclass
class MaeConfig(WeightsConfig):
    """The vision transformer of a masked autoencoder, from a file of MAE or a bare state dict.
    Needs the extra 'networks'."""

    _target_: str = "ddpmseg.backbones.mae.MaeBackbone"
    image_size: int = 256
    """Side of the training images. `dataset.image_size` may differ: positions are stretched over
    it."""
    patch_size: int = 8
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    """Heads of every attention layer, which the file does not determine."""
    mlp_ratio: float = 4.0
