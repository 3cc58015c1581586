"""`task=segment`: labelled images in, a head, masks and mIoU out."""

import logging
import time
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from ddpmseg import ranks
from ddpmseg.composition.build import build_cache, build_extractor, build_head
from ddpmseg.composition.checks import check_shares
from ddpmseg.composition.estimate import describe, forecast, num_training_images
from ddpmseg.composition.resolve import ResolvedSegmentation
from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.survey import known_survey
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.base import Head
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.metrics.segmentation import Scores
from ddpmseg.records.pictures import PredictionWriter
from ddpmseg.records.results import peak_rss_mb, write_per_class, write_results
from ddpmseg.records.run_folder import CHECKPOINT
from ddpmseg.runs.record import Tested, described, write_head
from ddpmseg.runtime.device import TEST_PRECISION, trainer_arguments
from ddpmseg.runtime.processes import all_threads
from ddpmseg.tracking.loggers import Claim, Tracking
from ddpmseg.tracking.wandb_media import ExampleImages, log_artifacts, log_picture, log_results
from ddpmseg.training.callbacks import Checkpoint, checkpoint_to_resume, progress_callbacks
from ddpmseg.training.extraction import extract_training_set
from ddpmseg.training.head import HeadTesting, gradient_descent

log = logging.getLogger(__name__)


def run_segmentation(run: ResolvedSegmentation, claim: Claim) -> Scores:
    """Extract, train, test and record; returns the test scores.

    If the head comes fitted, nothing is extracted or trained before the test.
    Calls `claim` before it writes the first file. Leaves in `paths.output_dir` the files named in
    the README, `results.csv` last and still to be put in place by `mark_finished`. Each rank
    extracts and tests its share of the images; rank 0 trains the head and writes everything but
    the masks of the others.
    """
    config, folder = run.config, run.folder
    dataset = config.dataset.build()
    num_train = num_training_images(config, dataset)
    data_sha256 = ""
    if ranks.is_first():
        check_shares(config.trainer.devices, dataset)
        data_sha256 = announce(run, dataset)
    started = time.perf_counter()
    backbone = config.backbone.build(run.device)
    cache = build_cache(config.features, config.paths)
    size = config.dataset.image_size
    extractor = build_extractor(config.features, backbone, size, config.seed, cache)
    images = LabelledImages(dataset, extractor.images_per_pass)
    if ranks.is_first():
        forecast(extractor, images, num_train)
    training_set = None
    if not config.head.comes_fitted:
        training_set = extract_training_set(extractor, images)
    seconds = {"seconds_extract": time.perf_counter() - started}

    tracking = claim(data_sha256)
    started = time.perf_counter()
    head = build_head(config.head, extractor.layout, dataset.classes, config.seed)
    if training_set is not None and ranks.is_first():
        with all_threads():
            started -= fit_head(run, head, *training_set, dataset.classes, tracking.loggers)
    del training_set
    if ranks.is_first():
        write_head(folder, head, dataset.classes, config.features)
    ranks.share_state(head)
    seconds["seconds_train"] = time.perf_counter() - started

    started = time.perf_counter()
    testing = test_head(run, head, extractor, images, tracking)
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


def announce(run: ResolvedSegmentation, dataset: LabelledSet) -> str:
    """Log what the run will take and what its images lack; returns the digest of the images.

    Raises DataError for a damaged image.
    """
    num_train = num_training_images(run.config, dataset)
    for line in describe(run, num_train, len(dataset.test)):
        log.info(line)
    found = known_survey(run.dataset, dataset)
    for sentence in found.warnings(dataset.classes):
        log.warning(sentence)
    return found.sha256


def fit_head(
    run: ResolvedSegmentation,
    head: Head,
    maps: NativeMaps,
    masks: torch.Tensor,
    classes: ClassTable,
    loggers: Sequence[Logger] = (),
) -> float:
    """Fit a fresh head to the labelled pixels; a gradient-trained one continues `last.ckpt`.

    Returns the seconds of an earlier process whose training is continued.
    """
    config, folder = run.config, run.folder
    checkpoint = Checkpoint(folder / CHECKPOINT, 2000)
    train = gradient_descent(
        config.head.build_protocol(),
        trainer_arguments(config.trainer, run.precision, folder, loggers),
        [*progress_callbacks(folder), checkpoint],
        checkpoint_to_resume(checkpoint.path, config.trainer.resume),
    )
    head.fit_to(maps, LabelledPixels(masks, classes.ignore_label), config.seed, train)
    return checkpoint.earlier_seconds


def test_head(
    run: ResolvedSegmentation,
    head: Head,
    extractor: FeatureExtractor,
    images: LabelledImages,
    tracking: Tracking,
) -> HeadTesting:
    """Segment and score the test images as a stream; write masks and `overlays.png`."""
    config, folder = run.config, run.folder
    classes = images.dataset.classes
    testing = HeadTesting(head, extractor, classes.ignore_label, config.head.vote)  # pyright: ignore
    progress = progress_callbacks(folder) if ranks.is_first() else []
    writers = [PredictionWriter(folder, classes), *progress]
    if tracking.run:
        writers.append(ExampleImages(tracking.run, classes, config.logger.num_images))
    arguments = trainer_arguments(config.trainer, TEST_PRECISION, folder, tracking.loggers)
    trainer = pl.Trainer(**arguments, callbacks=writers)
    trainer.test(testing, images, verbose=False)
    return testing
