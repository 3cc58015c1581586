"""The settings of a network of timm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ddpmseg.backbones.settings import WeightsConfig
from ddpmseg.weights.keywords import RANDOM


def _layers(name: str, layers: Sequence[int] | str | None) -> list[int]:
    from ddpmseg.backbones.timm.models import chosen_layers

    return chosen_layers(name, layers)


@dataclass
class TimmConfig(WeightsConfig):
    """Any network of timm; `name` is the library's, such as vit_small_patch14_dinov2.lvd142m."""

    resolvers: ClassVar[Mapping[str, Callable[..., Any]]] = {"timm_layers": _layers}

    _target_: str = "ddpmseg.backbones.timm.TimmBackbone"
    checkpoint: str = "hub"
    """A .safetensors or .pth file, 'hub' (the library's published file), or 'random'."""
    image_size: int = 64
    """Side of the dataset's images, in pixels."""
    input_size: int | None = None
    """Side in pixels to which images are resized, a multiple of the network's patch or largest
    stride; null: `image_size` rounded up to the next one. Twice the side gives maps four times the
    pixels, at four times the cost."""
    layers: Any = None
    """Layers that are read unless blocks are chosen: a list, 'lastN', or null for all."""
    norm: bool = True
    """Apply a transformer's final normalisation to its maps, as DINO's evaluations do."""

    def weight_file(self) -> Path | None:
        from ddpmseg.backbones.timm.weights import checkpoint_file

        return None if self.checkpoint == RANDOM else checkpoint_file(self.name, self.checkpoint)
