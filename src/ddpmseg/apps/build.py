"""From checked configuration objects to the parts they describe."""

from dataclasses import fields, replace
from typing import Any

import torch
from hydra.utils import get_class

from ddpmseg.backbones.base import Backbone
from ddpmseg.config import BackboneConfig, DatasetConfig, GuidedDiffusionConfig, TrainConfig
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.heads.mlp import StackedMLP, paper_hidden

ALLOWED = "ddpmseg."
"""A configuration may build only classes of this package: `_target_` can name any callable."""


def build_part(config: DatasetConfig | BackboneConfig, **changes: Any) -> Any:
    """Construct `config._target_` from the other fields; ConfigError for a foreign target."""
    if not config._target_.startswith(ALLOWED):
        raise ConfigError(
            f"`_target_: {config._target_}` is not allowed; a target must begin with '{ALLOWED}'."
        )
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "_target_"}
    return get_class(config._target_)(**(given | changes))


def build_dataset(config: DatasetConfig) -> LabelledSet:
    return build_part(config)


def build_backbone(config: BackboneConfig, device: torch.device) -> Backbone:
    """The frozen network on `device`, with its weights."""
    if isinstance(config, GuidedDiffusionConfig):
        config = replace(config, precision=choose_precision(config.precision, device))
    return build_part(config).to(device)


def build_backbone_without_weights(config: BackboneConfig) -> Backbone:
    """The network's shape only: allocates nothing and reads no file, whatever its size."""
    if isinstance(config, GuidedDiffusionConfig):
        config = replace(config, checkpoint="random")
    with torch.device("meta"):
        return build_part(config)


def build_extractor(config: TrainConfig, backbone: Backbone) -> FeatureExtractor:
    return FeatureExtractor(
        backbone,
        config.features.blocks,
        config.features.timesteps,
        image_size=config.dataset.image_size,
        hook=config.features.hook,  # pyright: ignore[reportArgumentType]
        noise=config.features.noise,  # pyright: ignore[reportArgumentType]
        seed=config.seed,
        batch_size=config.features.batch_size,
    )


def build_head(config: TrainConfig, dim: int, num_classes: int) -> StackedMLP:
    hidden = config.head.hidden
    widths = paper_hidden(num_classes) if hidden is None else hidden
    return StackedMLP(dim, num_classes, config.head.members, widths, config.seed)


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
    exact = config.task == "segment" and config.head.protocol == "paper"
    native = device.type == "cuda" or choose_precision("auto", device) == "bf16"
    return "bf16-mixed" if native and not exact else "32-true"


def choose_precision(precision: str, device: torch.device) -> str:
    """'auto' becomes what the device computes natively in 16 bits, else '32'."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "16"
    native = ("avx512_bf16", "amx_bf16")
    if device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in native):
        return "bf16"
    return "32"
