"""Pieces that several benchmarks share: a trained head, and ours in the form of the plain way."""

import gc
from dataclasses import replace
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from benchmarks import plain
from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_extractor, build_head
from ddpmseg.composition.resolve import resolve_segmentation
from ddpmseg.config import MlpConfig, TrainConfig
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.base import TrainedHead
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.stacked import StackedBatchNorm, StackedLinear
from ddpmseg.runs.segment import fit_head
from ddpmseg.runtime.device import choose_device, trainer_arguments
from ddpmseg.training.head import gradient_descent


def trained_head(
    config: TrainConfig, maps: NativeMaps, masks: Tensor, dataset: LabelledSet
) -> StackedMLP:
    """Train as `ddpmseg train` does, in a folder that is thrown away."""
    head = build_head(config.head, maps.layout, dataset.classes, config.seed)
    assert isinstance(head, StackedMLP)
    with TemporaryDirectory() as folder:
        own = replace(config, paths=replace(config.paths, output_dir=folder))
        run = resolve_segmentation(own, files=False)
        fit_head(run, head, maps, masks, dataset.classes)
    # Lightning's modules and trainers refer to each other, and with them to the maps.
    gc.collect()
    return head.eval().to(choose_device(config.trainer.accelerator))


def extractor_of(config: TrainConfig, backbone: Backbone) -> FeatureExtractor:
    """What reads the features of `config` from `backbone`."""
    return build_extractor(config.features, backbone, config.dataset.image_size, config.seed)


def fit_with_lightning(
    config: TrainConfig, head: TrainedHead, maps: NativeMaps, pixels: LabelledPixels
) -> None:
    """Train a head as the programs do, without a progress bar."""
    run = resolve_segmentation(config, files=False)
    arguments = trainer_arguments(config.trainer, run.precision, run.folder)
    arguments["enable_progress_bar"] = False
    gradient_descent(config.head.build_protocol(), arguments)(head, maps, pixels, config.seed)


def mlp(config: TrainConfig) -> MlpConfig:
    """The settings of the paper's head, which all benchmarks have."""
    assert isinstance(config.head, MlpConfig)
    return config.head


def as_plain_maps(maps: NativeMaps, image: int) -> plain.Maps:
    """Native maps of one image as the straightforward way holds them, fp32."""
    return {
        (spec.timestep, spec.block): maps.map(index)[image : image + 1].permute(0, 3, 1, 2).float()
        for index, spec in enumerate(maps.layout.maps)
    }


def synthetic_maps(
    layout: FeatureLayout, num_images: int, dtype: torch.dtype, device: torch.device
) -> NativeMaps:
    """Maps of noise from N(0, 1): as large and as slow to read as real ones."""
    maps = NativeMaps.empty(layout, num_images, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    for group in maps.groups.values():
        for image in group:
            image.normal_(generator=generator)
    return maps


@torch.no_grad()
def as_plain_members(head: StackedMLP) -> list[nn.Sequential]:
    """The members of a head as separate classifiers of unscaled vectors."""
    weights, biases = (part.unflatten(0, (head.members, -1)) for part in head.first_layer())
    members = []
    for index in range(head.members):
        network = plain.build_member(head.dim, head.num_classes, head.hidden, 0, index)
        first, *_ = (layer for layer in network if isinstance(layer, nn.Linear))
        first.weight.copy_(weights[index])
        first.bias.copy_(biases[index])
        copy_later(head.later, index, network)
        members.append(network.to(weights.device).eval())
    return members


@torch.no_grad()
def copy_later(
    later: list[tuple[StackedBatchNorm, StackedLinear]], member: int, network: nn.Sequential
) -> None:
    """Give a plain classifier all layers of one member but the first."""
    norms = [layer for layer in network if isinstance(layer, nn.BatchNorm1d)]
    linears = [layer for layer in network if isinstance(layer, nn.Linear)][1:]
    for (stacked_norm, stacked), norm, linear in zip(later, norms, linears, strict=True):
        linear.weight.copy_(stacked.weight[member])
        linear.bias.copy_(stacked.bias[member])
        for key in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, key).copy_(getattr(stacked_norm, key)[member])
