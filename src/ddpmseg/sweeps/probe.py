"""All cells of one timestep: one pass over the images, all probes trained and tested together."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from jaxtyping import UInt8
from pytorch_lightning.callbacks import Callback

from ddpmseg import ranks
from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_extractor
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.records.cell_grid import Cell
from ddpmseg.runtime.device import trainer_arguments
from ddpmseg.runtime.processes import alone
from ddpmseg.training.extraction import extract_training_set
from ddpmseg.training.head import gradient_descent
from ddpmseg.training.probes import ProbeTesting

Advance = Callable[[str, float], None]
"""Told of a stage ('extract', 'train', 'test') and the share of it that was just done."""


@dataclass(frozen=True, eq=False)
class Probed:
    """A finished cell and what its probe made of the first test images."""

    cell: Cell
    masks: UInt8[np.ndarray, "n s s"]


def probe_timestep(
    config: TrainConfig,
    backbone: Backbone,
    dataset: LabelledSet,
    seeds: Sequence[int],
    num_examples: int,
    advance: Advance,
) -> list[Probed]:
    """Train and test a probe for every block of `config.features` and every seed.

    Native maps of the labelled images are kept while the probes train; test images stream through;
    nothing is kept afterwards. Each rank extracts and tests its share of the images, rank 0 trains.
    """
    started = time.perf_counter()
    extractor = build_extractor(config, backbone)
    images = LabelledImages(dataset, extractor.images_per_pass)
    maps, masks = extract_training_set(extractor, images)
    advance("extract", 1.0)

    probes = config.head.build_probes(extractor.layout, dataset.classes.num_classes, seeds)
    folder = Path(config.paths.output_dir)
    fit, test = (trainer_arguments(config, folder, [], stage) for stage in ("fit", "test"))
    fit["enable_progress_bar"] = test["enable_progress_bar"] = False
    if ranks.is_first():
        pixels = LabelledPixels(masks, dataset.classes.ignore_label)
        protocol = config.head.build_protocol()
        told = _Told(advance, "train", protocol.steps_for(len(pixels)) * probes.num_fits)
        with alone():
            probes.fit(maps, pixels, config.seed, gradient_descent(protocol, fit, [told]))
    del maps
    ranks.share_state(probes)

    testing = ProbeTesting(probes, extractor, dataset.classes.ignore_label, num_examples)
    told = _Told(advance, "test", len(images.test_dataloader()))
    pl.Trainer(**test, callbacks=[told]).test(testing, images, verbose=False)
    seconds = (time.perf_counter() - started) / probes.members
    counts, shown = testing.counts.cpu(), testing.masks.numpy()
    cells = [(spec.block, spec.timestep, seed) for spec in extractor.layout.maps for seed in seeds]
    return [
        Probed(Cell(*cell, counts[member], seconds), shown[member])
        for member, cell in enumerate(cells)
    ]


class _Told(Callback):
    """Reports the share of a stage that each of its batches is."""

    def __init__(self, advance: Advance, stage: str, num_batches: int) -> None:
        self.advance, self.stage, self.num_batches = advance, stage, num_batches

    def on_train_batch_end(self, *_: object) -> None:
        self.advance(self.stage, 1 / self.num_batches)

    def on_test_batch_end(self, *_: object) -> None:
        self.advance(self.stage, 1 / self.num_batches)
