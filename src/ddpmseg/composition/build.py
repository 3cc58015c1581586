"""From checked configuration objects to the parts they describe."""

from pathlib import Path
from typing import Literal

from ddpmseg.backbones.base import Backbone
from ddpmseg.config import (
    FeaturesConfig,
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    TrainConfig,
)
from ddpmseg.data.class_table import ClassTable
from ddpmseg.errors import CheckpointError
from ddpmseg.features.cache import MapCache
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.heads.base import Head


def as_training(config: SweepConfig, blocks: list[int], timesteps: list[int]) -> TrainConfig:
    """What `ddpmseg train` would be given to train the probe of a sweep on these maps."""
    sweep = config.sweep
    return TrainConfig(
        seed=config.seed,
        dataset=config.dataset,
        backbone=config.backbone,
        features=FeaturesConfig(blocks, timesteps, sweep.hook, sweep.noise, sweep.batch_size),
        head=sweep.head,
        pretrain=PretrainConfig(),
        trainer=config.trainer,
        logger=config.logger,
        paths=config.paths,
    )


def build_extractor(
    config: TrainConfig, backbone: Backbone, cache: MapCache | None = None
) -> FeatureExtractor:
    return FeatureExtractor(
        backbone,
        config.features.blocks,
        config.features.timesteps,
        image_size=config.dataset.image_size,
        hook=config.features.hook,  # pyright: ignore[reportArgumentType]
        noise=config.features.noise,  # pyright: ignore[reportArgumentType]
        seed=config.seed,
        batch_size=config.features.batch_size,
        cache=cache,
        kept_blocks=config.features.cache_blocks,
    )


def cache_folder(
    paths: PathsConfig, kind: Literal["maps", "kernels", "downloads", "corruptions"]
) -> Path:
    return Path(paths.cache_dir).expanduser() / kind


def maps_folder(config: TrainConfig) -> Path:
    """Where the files of `build_cache` lie."""
    if config.features.cache_dir is None:
        return cache_folder(config.paths, "maps")
    return Path(config.features.cache_dir).expanduser()


def build_cache(config: TrainConfig) -> MapCache | None:
    """Where a run keeps its maps for later ones; None where it shall not."""
    if not config.features.cache_gb:
        return None
    return MapCache(maps_folder(config), config.features.cache_gb * 1e9)


def build_head(config: TrainConfig, dim: int, classes: ClassTable) -> Head:
    """The head of `head.*`, for vectors of `dim` features and these classes.

    Raises CheckpointError for one that was fitted to other features or other classes.
    """
    head = config.head.build(dim, classes.num_classes, config.seed)
    says = f"{config.head.source}: its classifiers"
    if head.num_classes != classes.num_classes:
        raise CheckpointError(
            f"{says} have {head.num_classes} outputs, class table '{classes.name}' has "
            f"{classes.num_classes} classes. Choose the `dataset` they were trained on."
        )
    if head.dim != dim:
        raise CheckpointError(
            f"{says} read D = {head.dim} features per pixel, `features.*` of backbone "
            f"'{config.backbone.name}' gives D = {dim} (blocks {sorted(config.features.blocks)} at "
            f"t = {config.features.timesteps}, {config.features.hook}s). Usually the blocks or "
            "timesteps are not those of the training, after which the original code names the "
            "folder: 50_150_250_5_6_7_8_12 (D = 8448) wants features.timesteps=[50,150,250] "
            "features.blocks=[5,6,7,8,12]."
        )
    return head
