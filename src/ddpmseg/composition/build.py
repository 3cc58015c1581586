"""From checked configuration objects to the parts they describe."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import get_class

from ddpmseg.backbones.base import Backbone
from ddpmseg.backbones.timm.backbone import checkpoint_file
from ddpmseg.config import (
    TRANSFER,
    BackboneConfig,
    DatasetConfig,
    DiffusersConfig,
    FeaturesConfig,
    HeadConfig,
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    TimmConfig,
    TrainConfig,
    WeightsConfig,
)
from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.cache import MapCache
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.heads.mlp import StackedMLP, paper_hidden
from ddpmseg.heads.official import read_ensemble
from ddpmseg.heads.probes import Probes
from ddpmseg.heads.protocols import Protocol, choose_protocol
from ddpmseg.runtime.device import choose_precision
from ddpmseg.weights.model_folder import find_model
from ddpmseg.weights.read import RANDOM, resolve_checkpoint

ALLOWED = "ddpmseg."
"""A configuration may build only classes of this package: `_target_` can name any callable."""


def build_part(config: DatasetConfig | BackboneConfig, **changes: Any) -> Any:
    """Construct `config._target_` from the other fields; ConfigError for a foreign target."""
    if not config._target_.startswith(ALLOWED):
        raise ConfigError(
            f"`_target_: {config._target_}` is not allowed; a target must begin with '{ALLOWED}'."
        )
    others = ("_target_", *TRANSFER)
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in others}
    return get_class(config._target_)(**(given | changes))


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


def build_dataset(config: DatasetConfig) -> LabelledSet:
    return build_part(config)


def build_backbone(config: BackboneConfig, device: torch.device) -> Backbone:
    """The frozen network on `device`, with its weights."""
    if not isinstance(config, WeightsConfig | DiffusersConfig):
        return build_part(config).to(device)
    precision = choose_precision(config.precision, device)
    if isinstance(config, DiffusersConfig):
        return build_part(config, precision=precision, download=config.download).to(device)
    return build_part(config, precision=precision, sha256=config.sha256).to(device)


def build_backbone_without_weights(config: BackboneConfig) -> Backbone:
    """The network's shape only: allocates nothing and reads no weights, whatever its size."""
    config = untrained(config)
    reach = {"download": config.download} if isinstance(config, DiffusersConfig) else {}
    with torch.device("meta"):
        return build_part(config, **reach)


def untrained(config: BackboneConfig) -> BackboneConfig:
    """The same network before any training; one without weights as it is."""
    if isinstance(config, DiffusersConfig):
        return replace(config, untrained=True)
    if isinstance(config, WeightsConfig):
        return replace(config, checkpoint=RANDOM, sha256=None)
    return config


def weight_file(config: BackboneConfig) -> Path | None:
    """The file a network's weights come from; None for one that needs no file.

    Raises CheckpointError where it is not there, or cannot be fetched from the hub.
    """
    if isinstance(config, DiffusersConfig):
        found = None if config.untrained else find_model(config.checkpoint, config.download)
        return found and found.weights
    if not isinstance(config, WeightsConfig) or config.checkpoint == RANDOM:
        return None
    if isinstance(config, TimmConfig):
        return checkpoint_file(config.name, config.checkpoint)
    return resolve_checkpoint(config.checkpoint)


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


def build_head(config: TrainConfig, dim: int, num_classes: int) -> StackedMLP:
    widths = head_widths(config.head, num_classes)
    return StackedMLP(dim, num_classes, config.head.members, widths, config.seed)


def read_head(config: TrainConfig, dim: int, classes: ClassTable) -> StackedMLP:
    """The ensemble of `head.checkpoint`, for vectors of `dim` features and these classes.

    Raises CheckpointError for files that are no ensemble, or one for other features, other classes
    or other `head.hidden`.
    """
    given = config.head.checkpoint
    assert given is not None
    head = read_ensemble(Path(given).expanduser(), config.head.members)
    says = f"`head.checkpoint={given}`: its classifiers"
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
    if config.head.hidden is not None and tuple(config.head.hidden) != head.hidden:
        raise CheckpointError(
            f"{says} have the hidden widths {list(head.hidden)}, `head.hidden` is "
            f"{list(config.head.hidden)}. Set `head.hidden=null` to take theirs."
        )
    return head


def build_probes(
    config: TrainConfig, layout: FeatureLayout, num_classes: int, seeds: Sequence[int]
) -> Probes:
    return Probes(layout, num_classes, head_widths(config.head, num_classes), seeds)


def head_widths(config: HeadConfig, num_classes: int) -> Sequence[int]:
    """Hidden widths of a head: those given, else the paper's."""
    return paper_hidden(num_classes) if config.hidden is None else config.hidden


def build_protocol(config: HeadConfig) -> Protocol:
    return choose_protocol(
        config.protocol, config.max_steps, config.batch_size, config.learning_rate
    )
