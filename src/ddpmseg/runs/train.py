"""What `ddpmseg train` does with a composed configuration."""

from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from ddpmseg import ranks
from ddpmseg.command_line import called_command
from ddpmseg.composition.build import cache_folder
from ddpmseg.composition.checks import check_alone, checked_config
from ddpmseg.config import run_key
from ddpmseg.download.settings import fetch_missing
from ddpmseg.io.files import OUTPUT_DIR, explain_unwritable
from ddpmseg.records.results import check_claim, claim_folder, finished_miou, mark_finished
from ddpmseg.runs.distill import run_distillation
from ddpmseg.runs.pretrain import run_pretraining
from ddpmseg.runs.segment import run_segmentation
from ddpmseg.runtime.logs import log_file
from ddpmseg.runtime.processes import processes
from ddpmseg.tracking.loggers import Tracking, open_loggers


def finished(cfg: DictConfig) -> float | None:
    """Test miou of a finished run with just these settings; None where there is none.

    The settings were checked when that run was made: a multirun passes over hundreds quickly.
    """
    if cfg.paths.overwrite or cfg.task == "pretrain":
        return None
    return finished_miou(Path(cfg.paths.output_dir), cfg)


def train(cfg: DictConfig, in_multirun: bool = False) -> float | None:
    """Check, run the task; returns test miou, the number to optimise.

    The task claims the output folder once it has read what it was given, so that a mistake never
    costs the results of an earlier run. On several devices rank 0 claims it for all, and all return
    the same. None for task=pretrain. Raises UserError for anything a user can put right.
    """
    config = checked_config(cfg)
    check_alone(config.trainer, in_multirun)
    folder = Path(config.paths.output_dir)
    check_claim(folder, cfg, config.paths.overwrite)
    if config.task != "pretrain":
        parts = [config.dataset, *([config.backbone] if config.task == "segment" else [])]
        fetch_missing(parts, cache_folder(config.paths, "downloads"))
    unwritable = explain_unwritable(folder, OUTPUT_DIR)  # also by loggers of other packages
    with unwritable, processes(config.trainer), ExitStack() as until_done:

        def claim() -> Tracking:
            tracking = Tracking()
            if ranks.is_first():
                facts = {}
                if config.task != "pretrain":
                    facts["classes"] = config.dataset.class_table().record()
                claim_folder(folder, cfg, config.paths.overwrite, facts)
                until_done.enter_context(log_file(folder / "train.log"))
                tracking = until_done.enter_context(open_loggers(config, folder, run_key(cfg)))
            ranks.wait_for_all()
            return tracking

        if config.task == "pretrain":
            run_pretraining(config, claim, called_command())
            return None
        run = run_distillation if config.task == "distill" else run_segmentation
        scores = run(config, claim)
        until_done.close()  # loggers first: what counts as finished has been logged whole
        if ranks.is_first():
            mark_finished(folder)
        return float(scores.miou)
