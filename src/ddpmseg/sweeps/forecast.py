"""How long a sweep will take, measured on a little of everything before it starts."""

import logging
from collections.abc import Sequence

from ddpmseg import ranks
from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_extractor
from ddpmseg.composition.estimate import seconds_of_probes, seconds_per_image
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.heads.probes import StackedProbes
from ddpmseg.runtime.progress import Progress, duration
from ddpmseg.sweeps.grid import Piece
from ddpmseg.sweeps.resolve import ResolvedSweep

log = logging.getLogger(__name__)


def forecast_sweep(
    sweep: ResolvedSweep,
    pieces: Sequence[Piece],
    backbone: Backbone,
    dataset: LabelledSet,
    show_bar: bool | None = None,
) -> Progress:
    """Log how long all pieces will take and what memory they need; returns their progress.

    `backbone` is the network of the first piece.
    """
    piece = pieces[0]
    extractor = build_extractor(piece.features, backbone, dataset.image_size, sweep.config.seed)
    head, layout = sweep.config.sweep.head, extractor.layout
    probes = head.build_probes(layout, dataset.classes.num_classes, piece.seeds)
    per_pass = seconds_per_image(extractor) / ranks.num_ranks()
    per_step = per_mask = 0.0
    if isinstance(probes, StackedProbes):
        per_step, per_mask = seconds_of_probes(extractor, probes)
        per_mask /= ranks.num_ranks()
    else:
        log.info("the fitting and reading of `sweep.head.name=%s` are not forecast", head.name)
    labels = len(dataset.train) * layout.image_size**2
    protocol = head.build_protocol()
    steps = protocol.steps_for(labels) * protocol.batch_size / 1024
    stages = {
        "extract": len(dataset.train) * per_pass,
        "train": steps * per_step,
        "test": len(dataset.test) * (per_pass + per_mask),
    }
    share = {"pixels": 0.2}
    progress = Progress(
        [
            {stage: value * share.get(p.control, 1.0) for stage, value in stages.items()}
            for p in pieces
        ],
        show_bar,
    )
    kept = len(dataset.train) * layout.values_per_image() * backbone.dtype.itemsize
    log.info(
        "forecast: %s on %s (per timestep: %s of forward passes, %s of training, %s of reading "
        "masks); %.2f GB of training maps at a time",
        duration(progress.total),
        backbone.device,
        duration((len(dataset.train) + len(dataset.test)) * per_pass),
        duration(stages["train"]),
        duration(len(dataset.test) * per_mask),
        kept / 1e9,
    )
    return progress
