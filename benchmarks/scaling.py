"""How time and memory grow with images, timesteps, blocks, members and classes."""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import CASES, Options, ours, prepared
from benchmarks.isolated import PeakMemory, in_own_process
from benchmarks.record import Recorder
from benchmarks.stages import extractor_of, fit_with_lightning, mlp
from benchmarks.timing import clocked
from ddpmseg.config import TrainConfig
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.segment import Segmentation, segment

STAGES = ("extract", "train", "test")
HIDDEN = [128, 32]
"""The same for all numbers of classes."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Point:
    """The sizes of one pipeline."""

    images: int
    timesteps: int
    blocks: int
    members: int
    classes: int

    def config(self, config: TrainConfig, deepest: int, steps: int) -> TrainConfig:
        """Timesteps spread over all; blocks up to `deepest`, so that a pass always ends there."""
        times = [50 + index * 800 // self.timesteps for index in range(self.timesteps)]
        blocks = list(range(deepest - self.blocks + 1, deepest + 1))
        return replace(
            config,
            features=replace(config.features, blocks=blocks, timesteps=times),
            head=replace(mlp(config), members=self.members, max_steps=steps, hidden=HIDDEN),
            dataset=replace(config.dataset, num_labelled=self.images),
        )


@dataclass(frozen=True)
class Plan:
    """Around `base` each axis takes the values of `axes` by itself. deepest: the last block."""

    base: Point
    axes: dict[str, tuple[int, ...]]
    deepest: int
    steps: int


PLANS = {
    "tiny": Plan(Point(2, 1, 2, 2, 4), {"images": (1, 2)}, 2, 4),
    # At 100 steps of 1024 pixels all trainings take more pixels than there are, as long ones do.
    "small": Plan(
        Point(12, 2, 4, 10, 10),
        {
            "images": (6, 12, 24),
            "timesteps": (1, 2, 4),
            "blocks": (2, 4, 8),
            "members": (5, 10, 20),
            "classes": (5, 10, 20),
        },
        8,
        100,
    ),
}


@dataclass(frozen=True)
class Measured:
    """Seconds of each stage, one number a repeat, and the peak of memory in bytes."""

    seconds: dict[str, list[float]]
    peak: int


def run(options: Options) -> None:
    """Rows of every point, and of the slopes in log-log scale along every axis."""
    size = "tiny" if options.size == "tiny" else "small"
    plan, case = PLANS[size], CASES[size]
    # Resident memory is the CPU's; that of a GPU is another matter.
    options = replace(options, device=CPU)
    record = Recorder(options.results, "scaling", case.name, CPU)
    measured: dict[Point, Measured] = {}
    with prepared(case, options) as config:
        for axis, values in plan.axes.items():
            for value in values:
                point = replace(plan.base, **{axis: value})
                if point not in measured:
                    asked = point.config(config, plan.deepest, plan.steps)
                    measured[point] = in_own_process(measure, asked, point, options.repeats)
                found, variant = measured[point], f"{axis} = {value}"
                for stage in STAGES:
                    record.add(variant, stage, "s", found.seconds[stage])
                record.add(variant, "peak memory", "GB", [found.peak / 1e9])
    for axis, values in plan.axes.items():
        points = [measured[replace(plan.base, **{axis: value})] for value in values]
        for stage in STAGES:
            turns = zip(*(point.seconds[stage] for point in points), strict=True)
            record.add(axis, f"slope of {stage}", "log/log", [slope(values, t) for t in turns])
        peaks = [point.peak for point in points]
        record.add(axis, "slope of peak memory", "log/log", [slope(values, peaks)])
    record.save()


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through the logarithms: 1 where values grow in proportion to sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(config: TrainConfig, point: Point, repeats: int) -> Measured:
    """Extract, train and test on two images, `repeats` times after a first that sets the peak."""
    dataset = config.dataset.build()
    images = torch.stack([sample.image for sample in dataset.train])
    names = [f"train/{name}" for name in dataset.train.names]
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(point.classes, images[:, 0].shape, generator=generator)
    extractor = extractor_of(config, ours(config, CPU))
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    peak = PeakMemory()
    highest = math.nan
    for turn in range(repeats + 1):
        found, maps = clocked(lambda: extractor(images, names), CPU)
        spent = {"extract": found}
        spent["train"], head = clocked(
            lambda maps=maps: _trained(config, maps, masks.byte(), point), CPU
        )
        spent["test"], _ = clocked(lambda maps=maps, head=head: _read(head, maps[:2]), CPU)
        del maps, head
        gc.collect()
        if turn == 0:
            highest = peak.above()
        else:
            for stage in STAGES:
                seconds[stage].append(spent[stage])
    return Measured(seconds, int(highest))


def _trained(config: TrainConfig, maps: NativeMaps, masks: Tensor, point: Point) -> StackedMLP:
    head = StackedMLP(maps.layout.dim, point.classes, point.members, HIDDEN, config.seed)
    pixels = LabelledPixels(masks, ignore_label=255)
    fit_with_lightning(config, head, maps, pixels)
    return head.eval()


def _read(head: StackedMLP, maps: NativeMaps) -> Segmentation:
    return segment(head.reader(maps.layout, maps.dtype), maps)
