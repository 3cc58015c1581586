"""The layout of native maps in pixel vectors and in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.errors import ConfigError


@dataclass(frozen=True)
class MapSpec:
    """One native map: `channels` features on a grid of `size` x `size`."""

    timestep: int
    block: int
    channels: int
    size: int


@dataclass(frozen=True)
class FeatureLayout:
    """The maps of a pixel vector in the reference's order: timestep-major, block-ascending.

    Maps of equal size form one *group* in memory, so that a gather or a matrix product touches few
    tensors. `maps` is the order of the features in a pixel vector, `groups` the order in memory.
    `timeless`: the network has no timesteps, and those of `maps` have no meaning.
    """

    maps: tuple[MapSpec, ...]
    image_size: int
    timeless: bool = False

    @property
    def dim(self) -> int:
        """Number of features of a pixel vector."""
        return sum(spec.channels for spec in self.maps)

    @property
    def blocks(self) -> list[int]:
        """Ascending."""
        return sorted({spec.block for spec in self.maps})

    @property
    def timesteps(self) -> list[int]:
        """In the order of a pixel vector; of a network without timesteps one without meaning."""
        return list(dict.fromkeys(spec.timestep for spec in self.maps))

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Columns of each map in a pixel vector."""
        ends = torch.tensor([spec.channels for spec in self.maps]).cumsum(0).tolist()
        return tuple(
            slice(end - spec.channels, end) for spec, end in zip(self.maps, ends, strict=True)
        )

    @cached_property
    def groups(self) -> dict[int, tuple[int, ...]]:
        """Size of a group -> indices of its members in `maps`, in order."""
        sizes = sorted({spec.size for spec in self.maps})
        return {
            size: tuple(i for i, spec in enumerate(self.maps) if spec.size == size)
            for size in sizes
        }

    def only(self, index: int) -> "FeatureLayout":
        """The layout of the single map `index`."""
        return replace(self, maps=self.maps[index : index + 1])

    def columns(self, size: int) -> Int[Tensor, " c"]:
        """Columns of a pixel vector that the group of `size` fills, in group order. int64."""
        return torch.cat(
            [torch.arange(self.slices[i].start, self.slices[i].stop) for i in self.groups[size]]
        )

    def values_per_image(self) -> int:
        """Count of numbers stored for one image at native resolution."""
        return sum(spec.channels * spec.size**2 for spec in self.maps)


def other_size(backbone: Backbone, image_size: int) -> str:
    """A sentence where a network that resizes nothing was made for another size; else empty."""
    if backbone.input_size is not None or backbone.image_size == image_size:
        return ""
    return (
        f"image size: backbone '{backbone.name}' was made for {backbone.image_size} pixels and "
        f"reads images of `dataset.image_size={image_size}` as they are"
    )


def check_image_size(backbone: Backbone, image_size: int) -> None:
    """Raise ConfigError for images of a side that the backbone cannot take."""
    largest_stride = max(max(block.input_stride, block.stride) for block in backbone.blocks)
    if (backbone.input_size or image_size) % largest_stride:
        raise ConfigError(
            f"backbone '{backbone.name}' needs images whose side is divisible by {largest_stride}; "
            f"`dataset.image_size` is {image_size}."
        )


def feature_layout(
    backbone: Backbone,
    blocks: Sequence[int],
    timesteps: Sequence[int],
    hook: Hook,
    image_size: int,
) -> FeatureLayout:
    """Layout of the maps of every timestep and block for images of `image_size` pixels.

    Blocks are sorted in ascending order, as in the reference (`src/feature_extractors.py`);
    timesteps keep their order. A backbone without timesteps has each block once. Raises ConfigError
    for an empty, repeated or impossible choice.
    """
    backbone.check(blocks, timesteps, hook)
    for key, chosen in (("features.blocks", blocks), ("features.timesteps", timesteps)):
        if not chosen or len(set(chosen)) < len(chosen):
            raise ConfigError(
                f"`{key}` must list at least one number, each once; got {list(chosen)}."
            )
    check_image_size(backbone, image_size)
    maps = []
    for timestep in timesteps if backbone.num_timesteps is not None else timesteps[:1]:
        for block in sorted(blocks):
            channels, _ = backbone.blocks[block].at(hook)
            size = backbone.map_size(block, hook, image_size)
            maps.append(MapSpec(timestep, block, channels, size))
    return FeatureLayout(tuple(maps), image_size, backbone.num_timesteps is None)
