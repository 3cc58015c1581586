"""Checks of the parts of a configuration, before any weight or image is read; they only check."""

import os
from typing import get_args, overload

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.guided_diffusion.sampler import check_steps
from ddpmseg.composition.build import maps_folder
from ddpmseg.composition.memory import check_distillation_memory, check_pretraining_memory
from ddpmseg.config import (
    FeaturesConfig,
    LoggerConfig,
    PathsConfig,
    SweepConfig,
    TrainConfig,
    TrainerConfig,
)
from ddpmseg.config.overrides import composition_error
from ddpmseg.config.values import check_values, refuse_unknown
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.errors import ConfigError
from ddpmseg.features.noise import NoiseKind
from ddpmseg.io.folders import check_writable
from ddpmseg.records.labelled_samples import images_folder
from ddpmseg.runtime.device import choose_device
from ddpmseg.segmenters.deeplab import ARCHITECTURES, find_weights
from ddpmseg.settings import at_least, one_of
from ddpmseg.tracking.loggers import check_loggers

FEWEST_PROCESSES = 8
"""So many may share a processor, however few cores it has."""
TASKS = ("segment", "distill", "pretrain")
TRAINER_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


def check_one_device(trainer: TrainerConfig, in_multirun: bool) -> None:
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
    """The composed configuration as typed objects; ConfigError for a missing value."""
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


def check_trainer(trainer: TrainerConfig, logger: LoggerConfig) -> None:
    """Raise ConfigError for settings of the trainer and the loggers that cannot work here."""
    one_of("trainer.precision", trainer.precision, TRAINER_PRECISIONS)
    check_loggers(logger)
    at_least("trainer.log_every_n_steps", trainer.log_every_n_steps, 1)
    count = trainer.devices
    at_least("trainer.devices", count, 1)
    device = choose_device(trainer.accelerator)
    cores = max(os.cpu_count() or 1, FEWEST_PROCESSES)
    present = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, cores)
    if count > present:
        said = (
            f"as many processes as the processor has cores, and {FEWEST_PROCESSES} on any"
            if device.type == "cpu"
            else f"the number this machine has of `trainer.accelerator={trainer.accelerator}`"
        )
        raise ConfigError(f"`trainer.devices={count}`: must lie in 1..{present}, {said}.")


def check_features(features: FeaturesConfig, paths: PathsConfig) -> None:
    """Raise ConfigError for settings of the features that no network could satisfy."""
    one_of("features.hook", features.hook, get_args(Hook))
    one_of("features.noise", features.noise, get_args(NoiseKind))
    at_least("features.batch_size", features.batch_size, 1)
    if not features.cache_gb >= 0:  # NaN is not
        raise ConfigError(f"`features.cache_gb={features.cache_gb}`: must be at least 0.")
    if features.cache_gb:
        key = "paths.cache_dir" if features.cache_dir is None else "features.cache_dir"
        check_writable(key, maps_folder(features, paths))


def check_dataset(dataset: DatasetConfig, files: bool) -> None:
    """Raise ConfigError for settings that cannot work; without `files` images may be missing."""
    dataset.check()
    if files:
        dataset.check_files()


def check_pretraining(config: TrainConfig) -> None:
    """Raise ConfigError for settings of task=pretrain that cannot work."""
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
    network = config.backbone.shape()
    stride = max(block.input_stride for block in network.blocks)
    if network.image_size % stride:
        raise ConfigError(
            f"`backbone.unet.image_size={network.image_size}`: this network needs images whose "
            f"side is divisible by {stride}."
        )
    check_pretraining_memory(config, network)


def check_distillation(config: TrainConfig, files: bool) -> None:
    """Raise ConfigError for a setting that cannot work, CheckpointError for weights not there.

    Without `files` images and weights may be missing.
    """
    settings, devices = config.segmenter, config.trainer.devices
    if devices > 1:
        raise ConfigError(
            f"`trainer.devices={devices}`: task=distill uses one device, for its batch norms take "
            "the mean of a whole batch. Set `trainer.devices=1`; several runs go side by side with "
            "`-m` and a launcher."
        )
    one_of("segmenter.architecture", settings.architecture, tuple(ARCHITECTURES))
    for name in ("num_epochs", "num_images", "checkpoint_every"):
        at_least(f"segmenter.{name}", getattr(settings, name), 1)
    for name in ("drop_certain", "num_workers"):
        at_least(f"segmenter.{name}", getattr(settings, name), 0)
    if settings.batch_size < 2:
        raise ConfigError(
            f"`segmenter.batch_size={settings.batch_size}`: must be at least 2, for a batch norm "
            "of the network sees one value per image."
        )
    if not settings.learning_rate > 0:  # NaN is not
        raise ConfigError(f"`segmenter.learning_rate={settings.learning_rate}`: must be above 0.")
    if not 0 <= settings.filter_out < 1:
        raise ConfigError(
            f"`segmenter.filter_out={settings.filter_out}`: must be a share, from 0 to below 1."
        )
    if files:
        images_folder(settings)
        find_weights(settings.architecture, settings.checkpoint)
    check_distillation_memory(config)


def check_shares(devices: int, dataset: LabelledSet) -> None:
    """ConfigError where a device would have no image to test."""
    if len(dataset.test) < devices:
        raise ConfigError(
            f"`trainer.devices={devices}`: there are {len(dataset.test)} test "
            f"images, and every device takes at least one. Use 1..{len(dataset.test)}."
        )
