"""Everything that can be wrong with a configuration, found before any weight or image is read."""

import os
from pathlib import Path
from typing import get_args, overload

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.sampling import check_steps
from ddpmseg.composition.build import (
    build_backbone_without_weights,
    build_protocol,
    maps_folder,
    read_head,
    weight_file,
)
from ddpmseg.composition.checks_distill import check_distillation
from ddpmseg.composition.get import comes_at_first_use, how_to_get
from ddpmseg.config import (
    DatasetConfig,
    DiffusersConfig,
    FolderDatasetConfig,
    GuidedDiffusionConfig,
    SweepConfig,
    TrainConfig,
    TrainerConfig,
    WeightsConfig,
)
from ddpmseg.config.ranges import at_least, one_of
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.labelled import SPLITS, LabelledSet
from ddpmseg.data.tiny import RULES
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.layout import FeatureLayout, feature_layout
from ddpmseg.features.noise import NoiseKind
from ddpmseg.heads.protocols import PROTOCOLS
from ddpmseg.heads.segment import Vote
from ddpmseg.runtime.device import choose_device
from ddpmseg.tracking.loggers import check_loggers
from ddpmseg.weights.read import PRECISIONS

TASKS = ("segment", "distill", "pretrain")
TRAINER_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


def checked_config(cfg: DictConfig) -> TrainConfig:
    """The composed configuration as typed objects, after all checks that need no data.

    Raises ConfigError naming the key, what is allowed and what to change; CheckpointError for a
    weight file that does not exist.
    """
    config = typed_config(cfg)
    check_training(config)
    return config


def planned_config(cfg: DictConfig) -> TrainConfig:
    """As `checked_config`, but images and weights may be missing."""
    config = typed_config(cfg)
    check_training(config, files=False)
    return config


def check_training(config: TrainConfig, files: bool = True) -> None:
    """The checks of `checked_config`; without `files` those of `planned_config`."""
    one_of("task", config.task, TASKS)
    one_of("trainer.precision", config.trainer.precision, TRAINER_PRECISIONS)
    check_loggers(config.logger)
    at_least("trainer.log_every_n_steps", config.trainer.log_every_n_steps, 1)
    _check_devices(config)
    if config.task == "pretrain":
        _check_pretraining(config)
    else:
        _check_dataset(config.dataset, files)
        check = check_distillation if config.task == "distill" else _check_segmentation
        check(config, files)
    _check_folder("paths.output_dir", Path(config.paths.output_dir))


def check_alone(trainer: TrainerConfig, in_multirun: bool) -> None:
    """Raise ConfigError for a job of a multirun on several devices."""
    if in_multirun and trainer.devices > 1:
        raise ConfigError(
            f"`trainer.devices={trainer.devices}`: a job of a multirun uses one device, for each "
            "further process would start the whole multirun again. Run the jobs side by side with "
            "a launcher (`hydra/launcher=joblib`, `submitit_slurm`) and `trainer.devices=1`, or "
            "start this job alone, without `-m`."
        )


@overload
def typed_config(cfg: DictConfig) -> TrainConfig: ...
@overload
def typed_config(cfg: DictConfig, root: type[SweepConfig]) -> SweepConfig: ...
def typed_config(
    cfg: DictConfig, root: type[TrainConfig] | type[SweepConfig] = TrainConfig
) -> TrainConfig | SweepConfig:
    """The composed configuration as typed objects; ConfigError for a value that is lacking."""
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or "a key"
        raise ConfigError(f"`{key}` has no value yet: give one, as in `{key}=...`.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    assert isinstance(config, root)
    return config


def _check_devices(config: TrainConfig) -> None:
    count = config.trainer.devices
    at_least("trainer.devices", count, 1)
    device = choose_device(config.trainer.accelerator)
    present = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type)
    if present is not None and count > present:
        raise ConfigError(
            f"`trainer.devices={count}`: must lie in 1..{present}, the number this machine has of "
            f"`trainer.accelerator={config.trainer.accelerator}`."
        )


def _check_dataset(dataset: DatasetConfig, files: bool) -> None:
    at_least("dataset.image_size", dataset.image_size, 8)
    at_least("dataset.num_labelled", dataset.num_labelled, 1)
    at_least("dataset.num_test", dataset.num_test, 1)
    one_of("dataset.tiny_annotations", dataset.tiny_annotations, RULES)
    load_class_table(dataset.classes)
    if isinstance(dataset, FolderDatasetConfig):
        one_of("dataset.split", dataset.split, SPLITS)
        if files and not comes_at_first_use(dataset):
            _check_root(dataset)


def _check_segmentation(config: TrainConfig, files: bool) -> None:
    features, head = config.features, config.head
    one_of("features.hook", features.hook, get_args(Hook))
    one_of("features.noise", features.noise, get_args(NoiseKind))
    at_least("features.batch_size", features.batch_size, 1)
    if not features.cache_gb >= 0:  # NaN is not
        raise ConfigError(f"`features.cache_gb={features.cache_gb}`: must be at least 0.")
    if features.cache_gb:
        key = "paths.cache_dir" if features.cache_dir is None else "features.cache_dir"
        _check_folder(key, maps_folder(config))
    at_least("head.members", head.members, 1)
    one_of("head.vote", head.vote, get_args(Vote))
    one_of("head.protocol", head.protocol, tuple(PROTOCOLS))
    build_protocol(head)
    for width in head.hidden or []:
        at_least("head.hidden", width, 1)
    if isinstance(config.backbone, WeightsConfig | DiffusersConfig):
        one_of("backbone.precision", config.backbone.precision, ("auto", *PRECISIONS))
    layout = planned_layout(config)
    if files and isinstance(config.backbone, WeightsConfig):
        _check_checkpoint(config.backbone)
    elif files and isinstance(config.backbone, DiffusersConfig) and not config.backbone.download:
        weight_file(config.backbone)  # its small files have been read already
    if head.checkpoint is not None:
        read_head(config, layout.dim, load_class_table(config.dataset.classes))


def _check_root(dataset: FolderDatasetConfig) -> None:
    if not Path(dataset.root).expanduser().is_dir():
        raise ConfigError(
            f"`dataset.root={dataset.root}`: no such folder. It must hold "
            f"'{dataset.train_images}' and '{dataset.test_images}'.{how_to_get(dataset)}"
        )


def _check_checkpoint(backbone: WeightsConfig) -> None:
    if comes_at_first_use(backbone):
        return
    try:
        weight_file(backbone)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{how_to_get(backbone)}") from error


def planned_layout(config: TrainConfig) -> FeatureLayout:
    """The layout a run will have, from the network's shape alone."""
    return feature_layout(
        build_backbone_without_weights(config.backbone),
        config.features.blocks,
        config.features.timesteps,
        config.features.hook,  # pyright: ignore[reportArgumentType]
        config.dataset.image_size,
    )


def _check_pretraining(config: TrainConfig) -> None:
    if not isinstance(config.backbone, GuidedDiffusionConfig):
        raise ConfigError(
            f"`backbone={config.backbone.name}` cannot be pretrained; task=pretrain needs a "
            "guided_diffusion backbone, such as backbone=guided_diffusion_64."
        )
    settings = config.pretrain
    for name in ("num_steps", "batch_size", "num_images", "checkpoint_every", "sample_every"):
        at_least(f"pretrain.{name}", getattr(settings, name), 1)
    if settings.batch_size % config.trainer.devices:
        raise ConfigError(
            f"`pretrain.batch_size={settings.batch_size}` is the batch of all devices together: it "
            f"must be divisible by `trainer.devices={config.trainer.devices}`."
        )
    for name in ("num_workers", "warmup_steps"):
        at_least(f"pretrain.{name}", getattr(settings, name), 0)
    at_least("pretrain.num_samples", settings.num_samples, 1)
    total = config.backbone.unet.diffusion_steps
    check_steps("pretrain.sample_steps", settings.sample_steps, total)
    for name in ("decay_share", "ema_decay"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ConfigError(f"`pretrain.{name}={getattr(settings, name)}`: must lie in 0..1.")
    if settings.learning_rate <= 0:
        raise ConfigError(f"`pretrain.learning_rate={settings.learning_rate}`: must be above 0.")
    backbone = build_backbone_without_weights(config.backbone)
    stride = max(block.input_stride for block in backbone.blocks)
    if backbone.image_size % stride:
        raise ConfigError(
            f"`backbone.unet.image_size={backbone.image_size}`: this network needs images whose "
            f"side is divisible by {stride}."
        )


def _check_folder(key: str, folder: Path) -> None:
    """The folder, or the nearest one above that exists, must be a folder one may write to."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(
            f"`{key}={folder}`: '{existing}' is not a folder that can be written to. "
            f"Choose another `{key}`."
        )


def check_shares(devices: int, dataset: LabelledSet) -> None:
    """ConfigError where a device would have no image to test."""
    if len(dataset.test) < devices:
        raise ConfigError(
            f"`trainer.devices={devices}`: there are {len(dataset.test)} test "
            f"images, and every device takes at least one. Use 1..{len(dataset.test)}."
        )
