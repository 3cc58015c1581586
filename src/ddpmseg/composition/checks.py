"""Everything that can be wrong with a configuration, found before any weight or image is read."""

import os
from typing import get_args, overload

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.guided_diffusion.sampler import check_steps
from ddpmseg.composition.build import build_head, maps_folder
from ddpmseg.composition.checks_distill import check_distillation
from ddpmseg.composition.memory import (
    check_distillation_memory,
    check_pretraining_memory,
    check_segmentation_memory,
)
from ddpmseg.config import SweepConfig, TrainConfig, TrainerConfig
from ddpmseg.config.overrides import composition_error
from ddpmseg.config.values import check_values, refuse_unknown
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import ConfigError
from ddpmseg.features.layout import FeatureLayout, feature_layout
from ddpmseg.features.noise import NoiseKind
from ddpmseg.io.folders import check_writable
from ddpmseg.runtime.device import choose_device
from ddpmseg.settings import at_least, one_of
from ddpmseg.tracking.loggers import check_loggers

FEWEST_PROCESSES = 8
"""So many may share a processor, however few cores it has."""
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
        config.dataset.check()
        if files:
            config.dataset.check_files()
        check = check_distillation if config.task == "distill" else _check_segmentation
        check(config, files)
        if config.task == "distill":
            check_distillation_memory(config)
    check_writable("paths.output_dir", config.paths.output_dir)


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
    refuse_unknown(cfg)
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or "a key"
        raise ConfigError(f"`{key}` has no value yet: give one, as in `{key}=...`.") from error
    except OmegaConfBaseException as error:
        raise composition_error(error) from error
    assert isinstance(config, root)
    check_values(config)
    for part in (config.dataset, config.backbone):
        part.check_target()
    return config


def _check_devices(config: TrainConfig) -> None:
    count = config.trainer.devices
    at_least("trainer.devices", count, 1)
    device = choose_device(config.trainer.accelerator)
    cores = max(os.cpu_count() or 1, FEWEST_PROCESSES)
    present = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, cores)
    if count > present:
        said = (
            f"as many processes as the processor has cores, and {FEWEST_PROCESSES} on any"
            if device.type == "cpu"
            else "the number this machine has of "
            f"`trainer.accelerator={config.trainer.accelerator}`"
        )
        raise ConfigError(f"`trainer.devices={count}`: must lie in 1..{present}, {said}.")


def _check_segmentation(config: TrainConfig, files: bool) -> None:
    features, head = config.features, config.head
    one_of("features.hook", features.hook, get_args(Hook))
    one_of("features.noise", features.noise, get_args(NoiseKind))
    at_least("features.batch_size", features.batch_size, 1)
    if not features.cache_gb >= 0:  # NaN is not
        raise ConfigError(f"`features.cache_gb={features.cache_gb}`: must be at least 0.")
    if features.cache_gb:
        key = "paths.cache_dir" if features.cache_dir is None else "features.cache_dir"
        check_writable(key, maps_folder(config))
    head.check()
    config.backbone.check()
    backbone = config.backbone.shape()
    layout = _layout(config, backbone)
    check_segmentation_memory(config, backbone, layout, training=files)
    if files:
        config.backbone.check_files()
    if head.comes_fitted:
        build_head(config, layout.dim, config.dataset.class_table())


def planned_layout(config: TrainConfig) -> FeatureLayout:
    """The layout a run will have, from the network's shape alone."""
    return _layout(config, config.backbone.shape())


def _layout(config: TrainConfig, backbone: Backbone) -> FeatureLayout:
    return feature_layout(
        backbone,
        config.features.blocks,
        config.features.timesteps,
        config.features.hook,  # pyright: ignore[reportArgumentType]
        config.dataset.image_size,
    )


def _check_pretraining(config: TrainConfig) -> None:
    flags = config.backbone.unet_flags()
    if flags is None:
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
    check_steps("pretrain.sample_steps", settings.sample_steps, flags.diffusion_steps)
    for name in ("decay_share", "ema_decay"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ConfigError(f"`pretrain.{name}={getattr(settings, name)}`: must lie in 0..1.")
    if settings.learning_rate <= 0:
        raise ConfigError(f"`pretrain.learning_rate={settings.learning_rate}`: must be above 0.")
    backbone = config.backbone.shape()
    stride = max(block.input_stride for block in backbone.blocks)
    if backbone.image_size % stride:
        raise ConfigError(
            f"`backbone.unet.image_size={backbone.image_size}`: this network needs images whose "
            f"side is divisible by {stride}."
        )
    check_pretraining_memory(config, backbone)


def check_shares(devices: int, dataset: LabelledSet) -> None:
    """ConfigError where a device would have no image to test."""
    if len(dataset.test) < devices:
        raise ConfigError(
            f"`trainer.devices={devices}`: there are {len(dataset.test)} test "
            f"images, and every device takes at least one. Use 1..{len(dataset.test)}."
        )
