"""Sizes that no memory holds, refused before anything is allocated."""

from dataclasses import dataclass

import torch

from ddpmseg.backbones.base import Backbone
from ddpmseg.config import TrainConfig
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.errors import ConfigError
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.heads.settings import HeadConfig
from ddpmseg.limits import gigabytes, machine_memory
from ddpmseg.runtime.device import choose_device

FLOAT, HALF = 4, 2
"""Bytes of a number."""
TRAINED = 4
"""Numbers a parameter takes in training: itself, its gradient and the two moments of Adam."""


@dataclass(frozen=True)
class Need:
    """Bytes that something takes at least, and the settings that decide it."""

    what: str
    count: float
    keys: tuple[str, ...]


def check_readout_memory(
    dataset: DatasetConfig,
    head: HeadConfig,
    backbone: Backbone,
    layout: FeatureLayout,
    batch_size: int,
    device: torch.device,
    training: bool,
) -> None:
    """Raise ConfigError if reading these maps out takes more memory than there is.

    backbone: its shape, on the meta device. batch_size: (image, timestep) pairs per forward pass.
    training: with the maps of the training images and the head. The numbers are lower bounds.
    """
    size, values = dataset.image_size, layout.values_per_image()
    images = max(1, batch_size // len(layout.timesteps))
    image = ("dataset.image_size", "features.batch_size")
    needs = [
        _network(backbone, 1),
        Need("the images of a forward pass", batch_size * 3 * size**2 * FLOAT, image),
        Need("the maps of a forward pass", images * values * HALF, (*image, "features.blocks")),
    ]
    if training:
        num_classes = dataset.class_table().num_classes
        num_train = 0 if head.comes_fitted else dataset.announced()[0]
        parameters = head.num_parameters(layout.dim, num_classes)
        batch = 0 if head.comes_fitted else head.build_protocol().batch_size * layout.dim
        trained = 1 if head.comes_fitted else TRAINED
        needs += [
            Need(
                f"the maps of {num_train} training images",
                num_train * values * HALF,
                ("dataset.num_labelled", "dataset.image_size", "features.blocks"),
            ),
            Need("the head", parameters * trained * FLOAT, ("head.members", "head.hidden")),
            Need("the vectors of a batch", batch * FLOAT, ("head.batch_size", "features.blocks")),
        ]
    _check(needs, device)


def check_pretraining_memory(config: TrainConfig, backbone: Backbone) -> None:
    """Raise ConfigError where a pretraining takes more memory than there is."""
    settings = config.pretrain
    image = 3 * backbone.image_size**2
    side = "backbone.unet.image_size"
    needs = [
        _network(backbone, TRAINED),
        Need("a batch", settings.batch_size * image * FLOAT, ("pretrain.batch_size", side)),
        Need("the samples", settings.num_samples * image * FLOAT, ("pretrain.num_samples", side)),
    ]
    if settings.images is None and settings.cache_images:
        needs.append(Need("the images", settings.num_images * image, ("pretrain.num_images", side)))
    _check(needs, choose_device(config.trainer.accelerator))


def check_distillation_memory(config: TrainConfig) -> None:
    """Raise ConfigError where the training of a segmenter takes more memory than there is."""
    settings, size = config.segmenter, config.dataset.image_size
    keys = ("segmenter.batch_size", "dataset.image_size")
    needs = [Need("a batch", settings.batch_size * 3 * size**2 * FLOAT, keys)]
    _check(needs, choose_device(config.trainer.accelerator))


def _network(backbone: Backbone, numbers: int) -> Need:
    count = sum(value.numel() for value in backbone.state_dict().values())
    return Need("the network", count * numbers * HALF, ("backbone",))


def _check(needs: list[Need], device: torch.device) -> None:
    memory = machine_memory()
    if device.type == "cuda":
        memory += torch.cuda.mem_get_info()[1]
    largest = max(needs, key=lambda need: need.count)
    total = sum(need.count for need in needs)
    if total > memory:
        keys = ", ".join(f"`{key}`" for key in largest.keys)
        raise ConfigError(
            f"these settings take at least {gigabytes(total)} of memory, and this machine has "
            f"{gigabytes(memory)}. Most of it, {gigabytes(largest.count)}, is for {largest.what}, "
            f"which {keys} decide{'s' * (len(largest.keys) == 1)}."
        )
