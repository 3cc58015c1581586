"""Chooses where to compute and in how many bits, and the arguments of every Trainer."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger

from ddpmseg import ranks
from ddpmseg.backbones.precision import has_fast_bf16
from ddpmseg.config import TrainerConfig
from ddpmseg.errors import ConfigError

TEST_PRECISION = "32-true"
"""Only training is autocast: in a test the backbone and the readers of its maps run in the dtype of
the maps, which need not be autocast's."""


def choose_device(accelerator: str) -> torch.device:
    """The device of a Trainer with this accelerator; ConfigError where there is none.

    'auto' is CUDA where there is a GPU, else the CPU. MPS, on which nothing has been tested, is
    used on request only.
    """
    available = {"cpu": True, "gpu": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    available["cuda"] = available["gpu"]
    if accelerator == "auto":
        accelerator = "cuda" if available["cuda"] else "cpu"
    if accelerator not in available:
        raise ConfigError(
            f"`trainer.accelerator={accelerator}`: must be one of auto, cpu, gpu, cuda, mps."
        )
    if not available[accelerator]:
        raise ConfigError(
            f"`trainer.accelerator={accelerator}`: this machine has none. Use 'auto' or 'cpu'."
        )
    return torch.device("cuda" if accelerator in ("gpu", "cuda") else accelerator)


def trainer_precision(precision: str, exact: bool, device: torch.device) -> str:
    """`trainer.precision`, with 'auto' replaced by what suits the device.

    exact: 'auto' means 32 bits, whatever the device is faster in.
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_fast_bf16(device) and not exact else "32-true"


def trainer_arguments(
    trainer: TrainerConfig, precision: str, folder: Path | None, loggers: Sequence[Logger] = ()
) -> dict[str, Any]:
    """The arguments of every Trainer that a rank uses by itself, besides steps and callbacks.

    `precision` is that of `trainer_precision` for training and `TEST_PRECISION` for a test.
    """
    device = choose_device(trainer.accelerator)
    return {
        "accelerator": device.type,  # Lightning's own 'auto' takes MPS
        "devices": _own_device(trainer, device),
        "precision": precision,
        "log_every_n_steps": trainer.log_every_n_steps,
        "default_root_dir": folder,
        "logger": list(loggers),
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": ranks.is_first() and sys.stderr.isatty(),
    }


def _own_device(trainer: TrainerConfig, device: torch.device) -> int | list[int]:
    """Lightning's `devices` for the device of this rank."""
    if trainer.devices > 1 and device.type == "cuda":
        return [torch.cuda.current_device()]
    return 1
