"""Native maps of images, by block and timestep."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddpmseg.api.images import Pictures, fitted_images
from ddpmseg.api.messages import python_names
from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.settings import BackboneConfig, DefaultFeatures
from ddpmseg.composition.build import build_extractor
from ddpmseg.config import FeaturesConfig
from ddpmseg.errors import ConfigError
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.noise import NoiseKind
from ddpmseg.settings import at_least, one_of


class Features:
    """What a network makes of n images at some blocks and timesteps.

    Attributes:
        native: all maps, at their own resolutions, on the CPU in the dtype of the network.
        layout: size and channels of every map, and their order in a pixel vector.
    """

    def __init__(self, native: NativeMaps) -> None:
        self.native = native

    def __len__(self) -> int:
        """Number of images."""
        return len(self.native)

    def __repr__(self) -> str:
        maps = ", ".join(
            f"({spec.block}, {spec.timestep}): {spec.channels}x{spec.size}x{spec.size}"
            for spec in self.layout.maps
        )
        return f"Features of {len(self)} images; (block, t): {maps}"

    @property
    def layout(self) -> FeatureLayout:
        return self.native.layout

    @property
    def blocks(self) -> list[int]:
        """Ascending."""
        return self.layout.blocks

    @property
    def timesteps(self) -> list[int]:
        """In the order of a pixel vector."""
        return self.layout.timesteps

    def map(self, block: int, timestep: int | None = None) -> Tensor:
        """The map of a block at a timestep: (n, c, h, w); shares memory with the others.

        A network without timesteps, and features of a single one, need no `timestep`. Raises
        ConfigError for a map that was not extracted.
        """
        if timestep is None and len(self.timesteps) == 1:
            timestep = self.timesteps[0]
        for index, spec in enumerate(self.layout.maps):
            if spec.block == block and (self.layout.timeless or spec.timestep == timestep):
                return self.native.map(index).permute(0, 3, 1, 2)
        raise ConfigError(
            f"no map of block {block} at t = {timestep} was extracted; there are blocks "
            f"{self.blocks} at t = {self.timesteps}."
        )

    def vectors(
        self, image: int, ys: Sequence[int] | np.ndarray, xs: Sequence[int] | np.ndarray
    ) -> Tensor:
        """Vectors (p, d) of p pixels of an image, interpolated between the cells of its maps.

        image: its index. ys, xs: rows and columns of the pixels, 0..image_size - 1. The d features
        are those of all maps, timestep-major, block-ascending within; `layout.slices` are their
        columns. Raises ConfigError for an image or a pixel that is not there.
        """
        size = self.layout.image_size
        rows, columns = (torch.as_tensor(np.asarray(given), dtype=torch.long) for given in (ys, xs))
        if not 0 <= image < len(self):
            raise ConfigError(f"there is no image {image}; there are 0..{len(self) - 1}.")
        if rows.shape != columns.shape or rows.ndim != 1:
            raise ConfigError(
                f"`ys` and `xs` have the shapes {tuple(rows.shape)} and {tuple(columns.shape)}; "
                "give one row and one column per pixel."
            )
        for name, given in (("ys", rows), ("xs", columns)):
            if ((given < 0) | (given >= size)).any():
                raise ConfigError(f"`{name}` must lie in 0..{size - 1}, the pixels of an image.")
        return self.native.pixel_vectors(torch.full_like(rows, image), rows * size + columns)


def extract(
    backbone: Backbone,
    images: Pictures,
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    *,
    hook: Hook | None = None,
    noise: NoiseKind = "shared",
    seed: int = 0,
    pass_size: int | None = None,
    progress: bool = True,
) -> Features:
    """Read a frozen network out at some blocks and timesteps: one forward pass per (image, t).

    Args:
        backbone: from `load_backbone`, or an object of a class of your own.
        images: n images, see `ddpmseg.api.images.Pictures`. Of each the square in the middle is
            read, at the `image_size` of the network.
        blocks: decoder blocks, 0 = deepest. None, here and below: what the network's settings say.
        timesteps: noise levels, 0..T - 1. A network without timesteps needs none.
        hook: reads the 'output' of a block, or its 'input'.
        noise, seed: which noise is added, see `ddpmseg.features.noise.NoiseSource`.
        pass_size: (image, timestep) pairs per forward pass.
        progress: shows a bar.

    Raises DataError for images that cannot be used, ConfigError for a block or a timestep that the
    network does not have.

    >>> import ddpmseg
    >>> backbone = ddpmseg.load_backbone("ddpm_ponies", device="cpu")
    >>> images, masks = ddpmseg.ponies(2)
    >>> features = ddpmseg.extract(backbone, images, [3, 6], [50], progress=False)
    >>> features.map(6, 50).shape
    torch.Size([2, 64, 32, 32])
    >>> features.vectors(0, ys=[10, 20, 30], xs=[31, 32, 33]).shape
    torch.Size([3, 160])
    """
    with python_names():
        chosen = features_config(backbone, blocks, timesteps, hook, noise, pass_size)
        extractor = build_extractor(chosen, backbone, backbone.image_size, seed)
        pictures, names = fitted_images(images, backbone.image_size)
    step = extractor.images_per_pass

    def batches():
        with tqdm(total=len(pictures), desc="extract", unit="image", disable=not progress) as bar:
            for start in range(0, len(pictures), step):
                part = slice(start, start + step)
                yield pictures[part], names[part]
                bar.update(len(names[part]))

    return Features(extractor.extract_all(batches(), len(pictures)))


def features_config(
    backbone: Backbone,
    blocks: Sequence[int] | None,
    timesteps: Sequence[int] | None,
    hook: Hook | None,
    noise: NoiseKind,
    pass_size: int | None,
) -> FeaturesConfig:
    """The features that a program asks for; where it leaves a choice, those of the network."""
    usual = usual_features(backbone)
    one_of("features.hook", hook or usual.hook, get_args(Hook))
    one_of("features.noise", noise, get_args(NoiseKind))
    at_least("features.pass_size", pass_size, 1)
    return FeaturesConfig(
        blocks=[int(block) for block in (usual.blocks if blocks is None else blocks)],
        timesteps=[int(t) for t in (usual.timesteps if timesteps is None else timesteps)],
        hook=hook or usual.hook,
        noise=noise,
        batch_size=pass_size or usual.batch_size,
    )


def settings_of(backbone: Backbone) -> BackboneConfig | None:
    """What `load_backbone` built it from; None for an object of a class of the user's own."""
    settings = backbone.settings
    assert settings is None or isinstance(settings, BackboneConfig)
    return settings


def recorded_settings(backbone: Backbone) -> BackboneConfig:
    """As `settings_of`; ConfigError for an object that `load_backbone` did not make."""
    settings = settings_of(backbone)
    if settings is None:
        raise ConfigError(
            f"backbone '{backbone.name}' was not made by `ddpmseg.load_backbone`, so no settings "
            "say how to build it again. docs/add_a_backbone.md shows how a class of your own "
            "becomes a name that `load_backbone` knows."
        )
    return settings


def usual_features(backbone: Backbone) -> DefaultFeatures:
    """What the settings of a network say; of one without settings all blocks."""
    settings = settings_of(backbone)
    if settings is not None:
        return settings.default_features
    return DefaultFeatures(blocks=list(backbone.default_blocks))
