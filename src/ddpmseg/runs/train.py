"""What `ddpmseg train` does with a composed configuration."""

import logging
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from ddpmseg import ranks
from ddpmseg.command_line import called_command
from ddpmseg.composition.build import cache_folder
from ddpmseg.composition.checks import check_one_device, typed_config
from ddpmseg.composition.identity import run_identity, settings_identity
from ddpmseg.composition.resolve import ResolvedRun, ResolvedSegmentation, resolve
from ddpmseg.config import TrainConfig, run_key
from ddpmseg.download.settings import fetch_missing
from ddpmseg.io.files import OUTPUT_DIR, explain_unwritable
from ddpmseg.records.folder_kind import FINISHED
from ddpmseg.records.run_folder import (
    check_free,
    claim_run,
    finished_miou,
    hold_run,
    mark_finished,
)
from ddpmseg.runs.distill import run_distillation
from ddpmseg.runs.pretrain import run_pretraining
from ddpmseg.runs.segment import run_segmentation
from ddpmseg.runtime.logs import log_file
from ddpmseg.runtime.processes import processes
from ddpmseg.settings import PartConfig
from ddpmseg.tracking.loggers import Tracking, open_loggers

log = logging.getLogger(__name__)


def finished(cfg: DictConfig) -> float | None:
    """Test miou of the finished run of this identity; None if there is none. Changes nothing.

    NaN for a finished task=pretrain, which has no such score. Raises ConfigError if the folder
    holds a finished run of another identity.
    """
    folder = Path(cfg.paths.output_dir)
    if cfg.paths.overwrite or not any((folder / mark).is_file() for mark in FINISHED):
        return None
    config = typed_config(cfg)
    if any(part.will_fetch() for part in _fetched(config)):
        return None
    return finished_miou(folder, run_identity(resolve(config)))


def train(cfg: DictConfig, in_multirun: bool = False) -> float | None:
    """Check, run the task; returns test miou, the number to optimise.

    The task claims the output folder once it has read what it was given, so that a mistake never
    costs the results of an earlier run. On several devices rank 0 claims it for all, and all return
    the same. None for task=pretrain. Raises UserError for anything a user can put right.
    """
    run = resolve(typed_config(cfg))
    config, folder = run.config, run.folder
    check_one_device(config.trainer, in_multirun)
    check_free(folder, settings_identity(config), config.paths.overwrite, settings_only=True)
    fetch_missing(_fetched(config), cache_folder(config.paths, "downloads"))
    unwritable = explain_unwritable(folder, OUTPUT_DIR)  # also by loggers of other packages
    with unwritable, processes(config.trainer), ExitStack() as until_done:
        loggers = until_done.enter_context(ExitStack())

        def claim(images_sha256: str | None) -> Tracking:
            tracking = Tracking()
            if ranks.is_first():
                until_done.enter_context(hold_run(folder))
                _claim(run, images_sha256)
                loggers.enter_context(log_file(folder / "train.log"))
                tracking = loggers.enter_context(open_loggers(config, folder, run_key(cfg)))
            ranks.wait_for_all()
            return tracking

        if config.task == "pretrain":
            run_pretraining(run, claim, called_command())
            return None
        if isinstance(run, ResolvedSegmentation):
            scores = run_segmentation(run, claim)
        else:
            scores = run_distillation(run, claim)
        # Before the mark, so that what counts as finished has been logged whole if it could be.
        _close(loggers)
        if ranks.is_first():
            mark_finished(folder, keep_epochs=config.segmenter.keep_epochs)
        return float(scores.miou)


def _fetched(config: TrainConfig) -> list[PartConfig]:
    """The parts whose files the task reads, and which may be fetched."""
    if config.task == "pretrain":
        return []
    return [config.dataset, config.backbone] if config.task == "segment" else [config.dataset]


def _close(loggers: ExitStack) -> None:
    """Close the loggers; a failure, as of a package's own uploads, costs no results."""
    try:
        loggers.close()
    except Exception:
        log.exception("a logger could not be closed; the results of the run are kept")


def _claim(run: ResolvedRun, images_sha256: str | None) -> None:
    facts = {}
    if run.config.task != "pretrain":
        facts["classes"] = run.config.dataset.class_table().record()
    claim_run(run.config, run_identity(run, images_sha256), facts)
