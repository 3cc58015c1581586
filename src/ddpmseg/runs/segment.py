"""`task=segment`: labelled images in, a head, masks and mIoU out."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from ddpmseg import ranks
from ddpmseg.composition.build import (
    build_cache,
    build_extractor,
    build_head,
)
from ddpmseg.composition.checks import check_shares, planned_layout
from ddpmseg.composition.estimate import describe, forecast, num_training_images
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.survey import survey
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.base import Head
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.metrics.segmentation import Scores
from ddpmseg.records.pictures import PredictionWriter
from ddpmseg.records.results import peak_rss_mb, write_per_class, write_results
from ddpmseg.runs.record import Tested, described, write_head
from ddpmseg.runtime.device import choose_device, trainer_arguments
from ddpmseg.runtime.processes import alone
from ddpmseg.tracking.loggers import Claim, Tracking
from ddpmseg.tracking.wandb_media import ExampleImages, log_artifacts, log_picture, log_results
from ddpmseg.training.callbacks import Checkpoint, checkpoint_to_resume, progress_callbacks
from ddpmseg.training.extraction import extract_training_set
from ddpmseg.training.head import HeadTesting, gradient_descent

log = logging.getLogger(__name__)


def run_segmentation(config: TrainConfig, claim: Claim) -> Scores:
    """Extract, train, test and record; returns the test scores.

    Where the head comes fitted, nothing is extracted or trained before the test.
    Calls `claim` before it writes the first file. Leaves in `paths.output_dir` the files named in
    the README, `results.csv` last and still to be put in its place by `mark_finished`. Each rank
    extracts and tests its share of the images; rank 0 trains the head and writes all but the masks
    of the others.
    """
    folder = Path(config.paths.output_dir)
    dataset = config.dataset.build()
    data_sha256 = ""
    if ranks.is_first():
        check_shares(config.trainer.devices, dataset)
        data_sha256 = tell(config, dataset)
    started = time.perf_counter()
    backbone = config.backbone.build(choose_device(config.trainer.accelerator))
    extractor = build_extractor(config, backbone, build_cache(config))
    images = LabelledImages(dataset, extractor.images_per_pass)
    if ranks.is_first():
        forecast(config, extractor, images)
    training_set = None
    if not config.head.comes_fitted:
        training_set = extract_training_set(extractor, images)
    seconds = {"seconds_extract": time.perf_counter() - started}

    tracking = claim()
    started = time.perf_counter()
    head = build_head(config, extractor.layout.dim, dataset.classes)
    if training_set is not None and ranks.is_first():
        with alone():
            started -= fit_head(config, head, *training_set, dataset, folder, tracking.loggers)
    del training_set
    if ranks.is_first():
        write_head(folder, head, dataset.classes, config.features)
    ranks.share_state(head)
    seconds["seconds_train"] = time.perf_counter() - started

    started = time.perf_counter()
    testing = test_head(config, head, extractor, images, folder, tracking)
    seconds["seconds_test"] = time.perf_counter() - started
    assert testing.scores is not None
    counted = (("pairs_computed", extractor.computed_pairs), ("pairs_read", extractor.read_pairs))
    pairs = {name: sum(ranks.gathered(count)) for name, count in counted}
    if ranks.is_first():
        write_per_class(folder, dataset.classes, testing.scores)
        tested = Tested(testing.scores, testing.uncertainties, len(dataset.test))
        row = described(config, backbone, head, len(dataset.train)) | tested.columns()
        row |= {key: f"{value:.2f}" for key, value in seconds.items()}
        row["peak_rss_mb"] = f"{peak_rss_mb():.0f}"
        write_results(folder, row | pairs)
        if tracking.run:
            log_results(tracking.run, folder, row)
            if config.logger.num_images:
                log_picture(tracking.run, "examples/sheet", folder / "overlays.png")
            if config.logger.artifacts:
                head_file, name = folder / "head.safetensors", config.dataset.name
                log_artifacts(tracking.run, head_file, name, data_sha256, row)
        (folder / "last.ckpt").unlink(missing_ok=True)
    log.info(
        "miou %.4f  miou_present %.4f  pixel_accuracy %.4f  (%d test images; %s)",
        testing.scores.miou,
        testing.scores.miou_present,
        testing.scores.pixel_accuracy,
        len(dataset.test),
        ", ".join(f"{k.removeprefix('seconds_')} {v:.1f} s" for k, v in seconds.items()),
    )
    if extractor.cache is not None:
        log.info("cache: %s", extractor.cache)
    log.info("results in %s", folder)
    return testing.scores


def tell(config: TrainConfig, dataset: LabelledSet) -> str:
    """Say what the run will take and what its images lack; returns the digest of the images.

    DataError for one that is damaged.
    """
    num_train = num_training_images(config, dataset)
    for line in describe(config, planned_layout(config), num_train, len(dataset.test)):
        log.info(line)
    found = survey(dataset)
    for sentence in found.warnings(dataset.classes):
        log.warning(sentence)
    return found.sha256


def fit_head(
    config: TrainConfig,
    head: Head,
    maps: NativeMaps,
    masks: torch.Tensor,
    dataset: LabelledSet,
    folder: Path,
    loggers: Sequence[Logger] = (),
) -> float:
    """Fit a fresh head to the labelled pixels; one that is trained goes on from `last.ckpt`.

    Returns the seconds of an earlier process that this training goes on from.
    """
    checkpoint = Checkpoint(folder / "last.ckpt", 2000)
    train = gradient_descent(
        config.head.build_protocol(),
        trainer_arguments(config, folder, loggers, "fit"),
        [*progress_callbacks(folder), checkpoint],
        checkpoint_to_resume(checkpoint.path, config.trainer.resume),
    )
    head.fit_to(maps, LabelledPixels(masks, dataset.classes.ignore_label), config.seed, train)
    return checkpoint.earlier_seconds


def test_head(
    config: TrainConfig,
    head: Head,
    extractor: FeatureExtractor,
    images: LabelledImages,
    folder: Path,
    tracking: Tracking,
) -> HeadTesting:
    """Segment and score the test images as a stream; write masks and `overlays.png`."""
    classes = images.dataset.classes
    testing = HeadTesting(head, extractor, classes.ignore_label, config.head.vote)  # pyright: ignore
    told = progress_callbacks(folder) if ranks.is_first() else []
    writers = [PredictionWriter(folder, classes), *told]
    if tracking.run:
        writers.append(ExampleImages(tracking.run, classes, config.logger.num_images))
    arguments = trainer_arguments(config, folder, tracking.loggers, "test")
    trainer = pl.Trainer(**arguments, callbacks=writers)
    trainer.test(testing, images, verbose=False)
    return testing
