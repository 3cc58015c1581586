"""All cells of one timestep: one pass over the images, all probes trained and tested together."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
from jaxtyping import UInt8
from pytorch_lightning.callbacks import Callback

from ddpmseg import ranks
from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_extractor
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.records.cell_grid import Cell
from ddpmseg.runtime.device import TEST_PRECISION, trainer_arguments
from ddpmseg.runtime.processes import all_threads
from ddpmseg.sweeps.grid import Piece
from ddpmseg.sweeps.resolve import ResolvedSweep
from ddpmseg.training.extraction import extract_training_set
from ddpmseg.training.head import gradient_descent
from ddpmseg.training.probes import ProbeTesting

Advance = Callable[[str, float], None]
"""Called with a stage ('extract', 'train', 'test') and the share of it that was just done."""


@dataclass(frozen=True, eq=False)
class Probed:
    """A finished cell and what its probe made of the first test images."""

    cell: Cell
    masks: UInt8[np.ndarray, "n s s"]


def probe_timestep(
    sweep: ResolvedSweep,
    piece: Piece,
    backbone: Backbone,
    dataset: LabelledSet,
    advance: Advance,
) -> list[Probed]:
    """Train and test a probe for every block and every seed of a piece on the maps of `backbone`.

    Native maps of the labelled images are kept while the probes train; test images stream through;
    nothing is kept afterwards. Each rank extracts and tests its share of the images, rank 0 trains.
    """
    started = time.perf_counter()
    config, head = sweep.config, sweep.config.sweep.head
    extractor = build_extractor(piece.features, backbone, dataset.image_size, config.seed)
    images = LabelledImages(dataset, extractor.images_per_pass)
    maps, masks = extract_training_set(extractor, images)
    advance("extract", 1.0)

    ignore_label = dataset.classes.ignore_label
    probes = head.build_probes(extractor.layout, dataset.classes.num_classes, piece.seeds)
    arguments = trainer_arguments(config.trainer, sweep.precision, sweep.folder)
    arguments["enable_progress_bar"] = False
    if ranks.is_first():
        stage = _Stage(advance, "train", probes.num_fits)
        train = gradient_descent(head.build_protocol(), arguments, [stage])
        with all_threads():
            probes.fit(maps, LabelledPixels(masks, ignore_label), config.seed, train)
    del maps
    ranks.share_state(probes)

    testing = ProbeTesting(probes, extractor, ignore_label, config.sweep.num_examples)
    stage = _Stage(advance, "test")
    arguments["precision"] = TEST_PRECISION
    pl.Trainer(**arguments, callbacks=[stage]).test(testing, images, verbose=False)
    seconds = (time.perf_counter() - started) / probes.members
    counts, shown = testing.counts.cpu(), testing.masks.numpy()
    return [
        Probed(Cell(*key, counts[member], seconds), shown[member])
        for member, key in enumerate(piece.keys)
    ]


class _Stage(Callback):
    """Reports the share of a stage that each of its batches is.

    repeats: Trainers that the stage takes.
    """

    def __init__(self, advance: Advance, stage: str, repeats: int = 1) -> None:
        self.advance, self.stage, self.repeats = advance, stage, repeats

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.advance(self.stage, 1 / (trainer.max_steps * self.repeats))

    def on_test_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.advance(self.stage, 1 / trainer.num_test_batches[0])  # pyright: ignore
