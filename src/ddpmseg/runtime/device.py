"""Where to compute and in how many bits, and what every Trainer is told of it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.loggers import Logger

from ddpmseg import ranks
from ddpmseg.backbones.precision import choose_precision
from ddpmseg.config import TrainConfig
from ddpmseg.errors import ConfigError


def choose_device(accelerator: str) -> torch.device:
    """The device of a Trainer with this accelerator; ConfigError where there is none."""
    available = {"cpu": True, "gpu": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    available["cuda"] = available["gpu"]
    if accelerator == "auto":
        accelerator = next(name for name in ("gpu", "mps", "cpu") if available[name])
    if accelerator not in available:
        raise ConfigError(
            f"`trainer.accelerator={accelerator}`: must be one of auto, cpu, gpu, cuda, mps."
        )
    if not available[accelerator]:
        raise ConfigError(
            f"`trainer.accelerator={accelerator}`: this machine has none. Use 'auto' or 'cpu'."
        )
    return torch.device("cuda" if accelerator in ("gpu", "cuda") else accelerator)


def trainer_precision(config: TrainConfig, device: torch.device) -> str:
    """`trainer.precision`, where 'auto' becomes what suits the device and the protocol."""
    if config.trainer.precision != "auto":
        return config.trainer.precision
    exact = config.task == "segment" and config.head.exact
    native = device.type == "cuda" or choose_precision("auto", device) == "bf16"
    return "bf16-mixed" if native and not exact else "32-true"


def trainer_arguments(
    config: TrainConfig,
    folder: Path | None,
    loggers: Sequence[Logger],
    stage: Literal["fit", "test"],
) -> dict[str, Any]:
    """What every Trainer is given that a rank uses by itself, besides its steps and callbacks.

    Only training is autocast: in a test the backbone and the readers of its maps run in the dtype
    of the maps, which need not be autocast's.
    """
    device = choose_device(config.trainer.accelerator)
    return {
        "accelerator": config.trainer.accelerator,
        "devices": _own_device(config, device),
        "precision": trainer_precision(config, device) if stage == "fit" else "32-true",
        "log_every_n_steps": config.trainer.log_every_n_steps,
        "default_root_dir": folder,
        "logger": list(loggers),
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": ranks.is_first() and sys.stderr.isatty(),
    }


def _own_device(config: TrainConfig, device: torch.device) -> int | list[int]:
    """Lightning's `devices` for the one that is this rank's."""
    if config.trainer.devices > 1 and device.type == "cuda":
        return [torch.cuda.current_device()]
    return 1
