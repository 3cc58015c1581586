"""The head of a finished run as files of the original code."""

import logging
from pathlib import Path

from ddpmseg.finished.open import open_run
from ddpmseg.heads.mlp import StackedMLP, paper_hidden
from ddpmseg.heads.official import write_ensemble

log = logging.getLogger(__name__)


def export(run: Path, output_dir: Path) -> None:
    """Write model_0.pth, model_1.pth, ... into `output_dir`, which is new or empty.

    Raises UserError when the run is not finished, its head does not have two hidden layers, or the
    folder cannot be used.
    """
    opened = open_run(run)
    head, features = opened.head, opened.config.features
    write_ensemble(head, output_dir)
    log.info(
        "%d classifiers of D = %d features (blocks %s at t = %s, %ss) and %d outputs in %s",
        *(head.members, head.dim, sorted(features.blocks), features.timesteps, features.hook),
        *(head.num_classes, output_dir),
    )
    assert isinstance(head, StackedMLP)  # `write_ensemble` takes no other
    if head.hidden != (expected := paper_hidden(head.num_classes)):
        log.warning(
            "the original code builds hidden layers of %d and %d for %d outputs; these have %d and "
            "%d, so change `pixel_classifier` there before it loads them",
            *(*expected, head.num_classes, *head.hidden),
        )
