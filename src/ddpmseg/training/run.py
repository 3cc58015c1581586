"""`train.py`: from a composed configuration to results on disk."""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddpmseg.config import TrainConfig


def train(cfg: DictConfig) -> None:
    from ddpmseg.training.run_pretrain import run_pretraining

    config: TrainConfig = OmegaConf.to_object(cfg)  # pyright: ignore
    Path(config.paths.output_dir).mkdir(parents=True, exist_ok=True)
    run_pretraining(config, " ".join(["python", *sys.argv]))
