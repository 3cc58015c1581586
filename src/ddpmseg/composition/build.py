"""From checked configuration objects to the parts they describe."""

from pathlib import Path
from typing import Literal

from ddpmseg.backbones.base import Backbone
from ddpmseg.config import FeaturesConfig, PathsConfig
from ddpmseg.data.class_table import ClassTable
from ddpmseg.errors import CheckpointError
from ddpmseg.features.cache import MapCache
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.heads.base import Head
from ddpmseg.heads.settings import HeadConfig


def build_extractor(
    features: FeaturesConfig,
    backbone: Backbone,
    image_size: int,
    seed: int,
    cache: MapCache | None = None,
) -> FeatureExtractor:
    """What reads `features` of images of `image_size` pixels; `seed` draws the noise.

    Raises ConfigError for a block or a timestep that the network does not have.
    """
    return FeatureExtractor(
        backbone,
        features.blocks,
        features.timesteps,
        image_size=image_size,
        hook=features.hook,  # pyright: ignore[reportArgumentType]
        noise=features.noise,  # pyright: ignore[reportArgumentType]
        seed=seed,
        batch_size=features.batch_size,
        cache=cache,
        kept_blocks=features.cache_blocks,
    )


def cache_folder(
    paths: PathsConfig, kind: Literal["maps", "kernels", "downloads", "corruptions"]
) -> Path:
    return Path(paths.cache_dir).expanduser() / kind


def maps_folder(features: FeaturesConfig, paths: PathsConfig) -> Path:
    """Folder of the files of `build_cache`."""
    if features.cache_dir is None:
        return cache_folder(paths, "maps")
    return Path(features.cache_dir).expanduser()


def build_cache(features: FeaturesConfig, paths: PathsConfig) -> MapCache | None:
    """Where a run keeps its maps for later runs; None if it keeps none."""
    if not features.cache_gb:
        return None
    return MapCache(maps_folder(features, paths), features.cache_gb * 1e9)


def build_head(head: HeadConfig, layout: FeatureLayout, classes: ClassTable, seed: int) -> Head:
    """The head of `head.*` for pixel vectors of this layout and these classes.

    `seed` draws its first weights. Raises CheckpointError for a head that was fitted to other
    features or other classes.
    """
    built = head.build(layout.dim, classes.num_classes, seed)
    says = f"{head.source}: its classifiers"
    if built.num_classes != classes.num_classes:
        raise CheckpointError(
            f"{says} have {built.num_classes} outputs, class table '{classes.name}' has "
            f"{classes.num_classes} classes. Choose the `dataset` they were trained on."
        )
    if built.dim != layout.dim:
        raise CheckpointError(
            f"{says} read D = {built.dim} features per pixel, `features.*` gives D = {layout.dim} "
            f"(blocks {layout.blocks} at t = {layout.timesteps}). Usually the blocks or timesteps "
            "are not those of the training, after which the original code names the folder: "
            "50_150_250_5_6_7_8_12 (D = 8448) wants features.timesteps=[50,150,250] "
            "features.blocks=[5,6,7,8,12]."
        )
    return built
