"""What `train.py` does with a composed configuration."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ddpmseg.apps.checks import checked_config
from ddpmseg.apps.pretrain import run_pretraining
from ddpmseg.apps.segment import run_segmentation
from ddpmseg.apps.setup import quiet_libraries
from ddpmseg.tracking.results import claim_folder


def train(cfg: DictConfig) -> float | None:
    """Check, claim the output folder, run the task; returns test miou, the number to optimise.

    None for task=pretrain. Raises UserError for anything a user can put right.
    """
    config = checked_config(cfg)
    claim_folder(Path(config.paths.output_dir), cfg, config.paths.overwrite)
    quiet_libraries()
    if config.task == "pretrain":
        run_pretraining(config, " ".join(["python", "train.py", *sys.argv[1:]]))
        return None
    return float(run_segmentation(config).miou)
