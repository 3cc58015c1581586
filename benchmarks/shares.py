"""What each stage of a program takes, beside the least its forward passes could take."""

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import CASES, Options, Size, ours, prepared, unet_config
from benchmarks.floor import PER_PASS, forward_flops, product_rates
from benchmarks.record import Recorder
from benchmarks.stages import extractor_of, fit_with_lightning, mlp, trained_head
from benchmarks.timing import clocked
from ddpmseg.backbones.base import Backbone
from ddpmseg.config import FeaturesConfig, TrainConfig
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.probes import ProbeReader
from ddpmseg.heads.segment import segment
from ddpmseg.metrics.functional import member_confusions
from ddpmseg.runtime.device import choose_device
from ddpmseg.training.extraction import device_of_maps

MATRIX = {"tiny": 256, "small": 4096, "full": 4096}
"""Side of the matrices whose product sets the rate of the floor."""
MEASURED: dict[Size, tuple[int, int]] = {"tiny": (2, 1), "full": (2, 1)}
"""Labelled and test images that are measured where all would take too long."""
SWEEP_TIMESTEP = 50
EXTRACT, FORWARD = "extract", "test: forward passes"
STAGES: tuple[str, ...] = ("decode", EXTRACT, "train", FORWARD, "test: head")


@dataclass(frozen=True)
class Program:
    """What is fitted to the labelled images' maps, and how it labels others: (m, n, s, s)."""

    name: str
    fit: Callable[[TrainConfig, NativeMaps, Tensor, LabelledSet], Any]
    read: Callable[[Any, NativeMaps], Tensor]


def run(options: Options) -> None:
    """Rows of a run of `train.py` and, but for the full size, of a timestep of `sweep.py`."""
    case, device = CASES[options.size], options.device
    record = Recorder(options.results, "shares", case.name, device)
    with prepared(case, options) as config:
        backbone = ours(config, device)
        rates = product_rates(MATRIX[options.size], options.repeats, device)
        record_rates(rates, record)
        some, turns = MEASURED.get(options.size), options.repeats
        record_stages(TRAIN, config, backbone, rates, record, turns, some)
        if options.size != "full":
            timestep = one_timestep(config, backbone)
            record_stages(SWEEP, timestep, backbone, rates, record, turns, some)
    record.save()


def record_rates(rates: dict[str, list[float]], record: Recorder) -> None:
    for bits, values in rates.items():
        record.add("matrix product", f"rate in {bits}", "GFLOP/s", [v / 1e9 for v in values])


def one_timestep(config: TrainConfig, backbone: Backbone) -> TrainConfig:
    """The run whose features and head are those of a timestep of `sweep.py`, at all blocks."""
    every = list(range(len(backbone.blocks)))
    features = FeaturesConfig(every, [SWEEP_TIMESTEP], batch_size=24)
    return replace(config, features=features, head=replace(config.head, members=1))


def record_stages(
    program: Program,
    config: TrainConfig,
    backbone: Backbone,
    rates: dict[str, list[float]],
    record: Recorder,
    repeats: int,
    measured: tuple[int, int] | None = None,
    warm_up: bool = True,
) -> None:
    """Seconds of all stages for the images of `config`, and the floor of the forward passes.

    measured: numbers of labelled and test images that stand for all. warm_up: a turn beforehand
    that is not counted.
    """
    labelled, test = config.dataset.num_labelled or 0, config.dataset.num_test or 0
    measured = measured or (labelled, test)
    note = "" if measured == (labelled, test) else "scaled from {} labelled and {} test images"
    note = note.format(*measured)
    scale = dict.fromkeys(STAGES, test / measured[1])
    scale |= {"decode": (labelled + test) / sum(measured), EXTRACT: labelled / measured[0]}
    scale["train"] = 1.0
    some = replace(config.dataset, num_labelled=measured[0], num_test=measured[1])
    smaller = replace(config, dataset=some)
    turns = [
        {stage: s * scale[stage] for stage, s in _stages(program, smaller, backbone).items()}
        for _ in range(repeats + warm_up)
    ][warm_up:]
    for stage in STAGES:
        record.add(program.name, stage, "s", [turn[stage] for turn in turns], note)
        shares = [100 * turn[stage] / sum(turn.values()) for turn in turns]
        record.add(program.name, f"{stage}, share", "%", shares, note)
    features = config.features
    flops = forward_flops(unet_config(config).unet, features.blocks, config.dataset.image_size)
    record.add(program.name, PER_PASS, "GFLOP", [flops / 1e9])
    runs_in = "32 bits" if backbone.dtype == torch.float32 else "16 bits"
    for stage, count in ((EXTRACT, labelled), (FORWARD, test)):
        for bits, values in rates.items():
            least = [count * len(features.timesteps) * flops / rate for rate in values]
            record.add(program.name, f"{stage}, floor in {bits}", "s", least, note)
            if bits == runs_in:
                times = [turn[stage] / statistics.median(least) for turn in turns]
                record.add(program.name, f"{stage}, times the floor in {bits}", "x", times, note)


def _stages(program: Program, config: TrainConfig, backbone: Backbone) -> dict[str, float]:
    """Seconds of each stage of one run with a loaded network."""
    device = backbone.device
    seconds = dict.fromkeys(STAGES, 0.0)
    dataset = config.dataset.build()
    classes = dataset.classes
    # Both splits keep what they have decoded.
    seconds["decode"], _ = clocked(lambda: [list(dataset.train), list(dataset.test)], device)
    extractor = extractor_of(config, backbone)
    images = torch.stack([sample.image for sample in dataset.train])
    masks = torch.stack([sample.mask for sample in dataset.train])
    names = [f"train/{name}" for name in dataset.train.names]
    seconds[EXTRACT], maps = clocked(
        lambda: extractor.extract_all(
            [(images, names)], len(images), device_of_maps(extractor, len(images))
        ),
        device,
    )
    seconds["train"], fitted = clocked(lambda: program.fit(config, maps, masks, dataset), device)
    del maps
    gc.collect()

    def read(some: NativeMaps, truth: Tensor) -> Tensor:
        labels = program.read(fitted, some)
        truth = truth.to(labels.device)
        return member_confusions(labels, truth, classes.num_classes, classes.ignore_label)

    for start in range(0, len(dataset.test), extractor.images_per_pass):
        stop = min(start + extractor.images_per_pass, len(dataset.test))
        samples = [dataset.test[index] for index in range(start, stop)]
        pictures = torch.stack([sample.image for sample in samples])
        truth = torch.stack([sample.mask for sample in samples])
        keys = [f"test/{sample.name}" for sample in samples]
        spent, found = clocked(lambda p=pictures, k=keys: extractor(p, k), device)
        seconds[FORWARD] += spent
        seconds["test: head"] += clocked(lambda f=found, t=truth: read(f, t), device)[0]
    return seconds


def _masks(head: StackedMLP, maps: NativeMaps) -> Tensor:
    return segment(head.reader(maps.layout, maps.dtype), maps).masks[None]


def _trained_probes(
    config: TrainConfig, maps: NativeMaps, masks: Tensor, dataset: LabelledSet
) -> ProbeReader:
    probes = mlp(config).build_probes(maps.layout, dataset.classes.num_classes, [config.seed])
    pixels = LabelledPixels(masks, dataset.classes.ignore_label)
    fit_with_lightning(config, probes, maps, pixels)
    return ProbeReader(probes.eval().to(choose_device(config.trainer.accelerator)), maps.dtype)


TRAIN = Program("train.py", trained_head, _masks)
SWEEP = Program("a timestep of sweep.py", _trained_probes, ProbeReader.__call__)
