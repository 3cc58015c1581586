"""`task=distill`: images that an ensemble has labelled in, a segmentation network and mIoU out."""

import logging
import shutil
import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ddpmseg.composition.resolve import ResolvedRun
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet, LabelledSplit
from ddpmseg.data.survey import known_survey
from ddpmseg.errors import ConfigError
from ddpmseg.io.files import atomic_write
from ddpmseg.metrics.segmentation import Scores
from ddpmseg.records.labelled_samples import labelled_samples
from ddpmseg.records.pictures import PredictionWriter
from ddpmseg.records.results import peak_rss_mb, score_columns, write_per_class, write_results
from ddpmseg.records.run_folder import CHECKPOINT, EPOCHS
from ddpmseg.runs.epochs import EpochScores
from ddpmseg.runtime.device import TEST_PRECISION, trainer_arguments
from ddpmseg.segmenters.deeplab import DeepLab, find_weights, load_body
from ddpmseg.segmenters.export import SEGMENTER, load_segmenter
from ddpmseg.tracking.loggers import Claim, Tracking
from ddpmseg.tracking.wandb_media import ExampleImages, log_artifacts, log_picture, log_results
from ddpmseg.training.callbacks import Checkpoint, checkpoint_to_resume, progress_callbacks
from ddpmseg.training.distill import SegmenterTesting, SegmenterTraining

log = logging.getLogger(__name__)


def run_distillation(run: ResolvedRun, claim: Claim) -> Scores:
    """Train, choose the best epoch, test and record; returns the test scores.

    The network learns from the images of `segmenter.images`. The epoch is the one that does best on
    the labelled photographs, those that `task=segment` trains on; it is tested on the same ones.
    Masks of photographs are as stored: `dataset.tiny_annotations` is about training. Calls `claim`
    before it writes the first file. Leaves in `paths.output_dir` what `run_segmentation` leaves,
    with `segmenter.safetensors` for the head and the scores of every epoch in `epochs.csv`.

    Source: Baranchuk et al. 2022; DatasetDDPM of its code.
    """
    config, folder = run.config, run.folder
    settings = config.segmenter
    dataset = run.dataset.build()
    data_sha256 = known_survey(run.dataset, dataset).sha256
    samples = labelled_samples(settings, dataset.classes, dataset.image_size)
    if len(samples) < settings.batch_size:
        raise ConfigError(
            f"`segmenter.batch_size={settings.batch_size}`: {len(samples)} images are left after "
            "the filter, and an incomplete batch is dropped. Lower it, or draw more images."
        )
    network, weights_sha256 = build_segmenter(config, dataset.classes.num_classes)
    tracking = claim(data_sha256)
    started = time.perf_counter()
    best, earlier = train_segmenter(run, network, samples, dataset, tracking)
    seconds = {"seconds_train": earlier + time.perf_counter() - started}
    with atomic_write(folder / SEGMENTER) as unfinished:
        shutil.copyfile(best, unfinished)

    started = time.perf_counter()
    trained, _ = load_segmenter(folder / SEGMENTER)
    testing = test_segmenter(run, trained, dataset, tracking)
    seconds["seconds_test"] = time.perf_counter() - started
    scores = testing.scores
    assert scores is not None
    write_per_class(folder, dataset.classes, scores)
    row = _result_row(config, weights_sha256, dataset, testing, seconds)
    write_results(folder, row)
    if tracking.run:
        log_results(tracking.run, folder, row)
        if config.logger.num_images:
            log_picture(tracking.run, "examples/sheet", folder / "overlays.png")
        if config.logger.artifacts:
            log_artifacts(tracking.run, folder / SEGMENTER, config.dataset.name, data_sha256, row)
    log.info(
        "miou %.4f  miou_present %.4f  pixel_accuracy %.4f  (%d test images; train %.1f s, test "
        "%.1f s)",
        *(scores.miou, scores.miou_present, scores.pixel_accuracy, len(dataset.test)),
        *seconds.values(),
    )
    log.info("results in %s", folder)
    return scores


def build_segmenter(config: TrainConfig, num_classes: int) -> tuple[DeepLab, str]:
    """The network before its training, and the SHA-256 of its first weights, '' for random ones."""
    settings = config.segmenter
    network = DeepLab(settings.architecture, num_classes, config.seed)
    path = find_weights(settings.architecture, settings.checkpoint)
    sha256 = "" if path is None else load_body(network, path)
    size = sum(parameter.numel() for parameter in network.parameters())
    log.info(
        "network: DeepLabV3, body %s, %.1f M parameters, first weights %s",
        *(settings.architecture, size / 1e6, path or "random"),
    )
    return network, sha256


def train_segmenter(
    run: ResolvedRun,
    network: DeepLab,
    samples: LabelledSplit,
    dataset: LabelledSet,
    tracking: Tracking,
) -> tuple[Path, float]:
    """Train from the start or from `last.ckpt`.

    Returns the weights of the best epoch, and the seconds of an earlier process that the training
    went on from.
    """
    config, folder = run.config, run.folder
    settings = config.segmenter
    module = SegmenterTraining(network, samples, dataset.classes, settings, config.seed)
    photographs = LabelledImages(dataset, settings.batch_size)
    facts = {"class_names": dataset.classes.names, "image_size": dataset.image_size}
    epochs = EpochScores(folder, photographs.train_dataloader, dataset.classes, facts)
    every = (settings.checkpoint_every, module.steps_per_epoch)
    checkpoint = Checkpoint(folder / CHECKPOINT, *every)
    trainer = pl.Trainer(
        **trainer_arguments(config.trainer, run.precision, folder, tracking.loggers),
        max_steps=module.num_steps,
        callbacks=[epochs, *progress_callbacks(folder), checkpoint],
    )
    resumed = checkpoint_to_resume(checkpoint.path, config.trainer.resume)
    if not resumed:
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)
    log.info(
        "training: %d epochs of %d steps of %d images; the best on %d photographs is tested",
        *(settings.num_epochs, module.steps_per_epoch, settings.batch_size, len(dataset.train)),
    )
    trainer.fit(module, ckpt_path=resumed, weights_only=True)
    score = epochs.rows[epochs.best - 1]["miou"]
    log.info("best: epoch %d, miou %.4f on the photographs it is chosen by", epochs.best, score)
    return epochs.path_of_best, checkpoint.earlier_seconds


def test_segmenter(
    run: ResolvedRun, network: DeepLab, dataset: LabelledSet, tracking: Tracking
) -> SegmenterTesting:
    """Segment and score the test images; write masks and `overlays.png`."""
    config, folder = run.config, run.folder
    classes = dataset.classes
    testing = SegmenterTesting(network, classes.ignore_label)
    callbacks: list[Callback] = [PredictionWriter(folder, classes), *progress_callbacks(folder)]
    if tracking.run:
        callbacks.append(ExampleImages(tracking.run, classes, config.logger.num_images))
    arguments = trainer_arguments(config.trainer, TEST_PRECISION, folder, tracking.loggers)
    trainer = pl.Trainer(**arguments, callbacks=callbacks)
    trainer.test(testing, LabelledImages(dataset, config.segmenter.batch_size), verbose=False)
    return testing


def _result_row(
    config: TrainConfig,
    weights_sha256: str,
    dataset: LabelledSet,
    testing: SegmenterTesting,
    seconds: dict[str, float],
) -> dict[str, object]:
    """What a run of this task has not stays empty: blocks, timesteps, a head."""
    scores = testing.scores
    assert scores is not None
    return {
        "dataset": config.dataset.name,
        "backbone": config.segmenter.name,
        "checkpoint_sha256": weights_sha256,
        "blocks": "",
        "timesteps": "",
        "seed": config.seed,
        "num_labelled": len(dataset.train),
        "num_test": len(dataset.test),
        **score_columns(scores, testing.uncertainties),
        "seconds_extract": "",
        **{key: f"{value:.2f}" for key, value in seconds.items()},
        "peak_rss_mb": f"{peak_rss_mb():.0f}",
    }
