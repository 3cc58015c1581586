"""From the settings of a run to everything that follows from them, derived once."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_head
from ddpmseg.composition.checks import (
    TASKS,
    check_dataset,
    check_distillation,
    check_features,
    check_pretraining,
    check_trainer,
)
from ddpmseg.composition.memory import check_readout_memory
from ddpmseg.config import TrainConfig
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.features.layout import FeatureLayout, feature_layout
from ddpmseg.io.folders import check_writable
from ddpmseg.runtime.device import choose_device, trainer_precision
from ddpmseg.settings import one_of


@dataclass(frozen=True, eq=False)
class ResolvedRun:
    """The checked settings of a run of `ddpmseg train`, and what follows from them.

    device, precision: where and how precisely Lightning trains.
    """

    config: TrainConfig
    device: torch.device
    precision: str

    @property
    def folder(self) -> Path:
        return Path(self.config.paths.output_dir)

    @property
    def dataset(self) -> DatasetConfig:
        """The labelled images as the task reads them.

        task=distill, which trains on other images, takes masks as they are stored:
        `dataset.tiny_annotations` is about training.
        """
        dataset = self.config.dataset
        return (
            replace(dataset, tiny_annotations="keep") if self.config.task == "distill" else dataset
        )


@dataclass(frozen=True, eq=False)
class ResolvedSegmentation(ResolvedRun):
    """A run of task=segment.

    network: the shape of the backbone, on the meta device. layout: of the pixel vectors.
    """

    network: Backbone
    layout: FeatureLayout


def resolve(config: TrainConfig, files: bool = True) -> ResolvedRun:
    """Check everything that can be checked without reading images, and derive what follows.

    Without `files`, images and weights may be missing. The result is a `ResolvedSegmentation` for
    task=segment. Raises ConfigError naming the key, what is allowed and what to change;
    CheckpointError for a missing weight file.
    """
    one_of("task", config.task, TASKS)
    if config.task == "segment":
        return resolve_segmentation(config, files)
    check_trainer(config.trainer, config.logger)
    if config.task == "pretrain":
        check_pretraining(config)
    else:
        check_dataset(config.dataset, files)
        check_distillation(config, files)
    check_writable("paths.output_dir", config.paths.output_dir)
    device = choose_device(config.trainer.accelerator)
    return ResolvedRun(config, device, trainer_precision(config.trainer.precision, False, device))


def resolve_segmentation(config: TrainConfig, files: bool = True) -> ResolvedSegmentation:
    """As `resolve`, for task=segment alone."""
    one_of("task", config.task, ("segment",))
    dataset, backbone, features, head = (
        *(config.dataset, config.backbone),
        *(config.features, config.head),
    )
    check_trainer(config.trainer, config.logger)
    check_dataset(dataset, files)
    check_features(features, config.paths)
    head.check()
    backbone.check()
    network = backbone.shape()
    layout = feature_layout(
        network,
        features.blocks,
        features.timesteps,
        features.hook,  # pyright: ignore[reportArgumentType]
        dataset.image_size,
    )
    device = choose_device(config.trainer.accelerator)
    check_readout_memory(
        dataset, head, network, layout, features.batch_size, device, training=files
    )
    if files:
        backbone.check_files()
    if head.comes_fitted:
        build_head(head, layout, dataset.class_table(), config.seed)
    check_writable("paths.output_dir", config.paths.output_dir)
    precision = trainer_precision(config.trainer.precision, head.exact, device)
    return ResolvedSegmentation(config, device, precision, network, layout)
