"""Looking before leaping: what a composed configuration would do."""

from collections.abc import Callable
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ddpmseg import config as schemas
from ddpmseg.apps.build import (
    build_backbone,
    build_backbone_without_weights,
    build_dataset,
    build_extractor,
    choose_device,
)
from ddpmseg.apps.checks import checked_config, planned_layout
from ddpmseg.apps.estimate import describe, num_training_images, seconds_per_image
from ddpmseg.config import TrainConfig
from ddpmseg.errors import ConfigError


def compose(
    config_dir: Path,
    overrides: list[str],
    check: Callable[[DictConfig], TrainConfig] = checked_config,
) -> TrainConfig:
    """The configuration of `train.py` with these overrides, as `check` leaves it.

    Raises ConfigError.
    """
    if not (config_dir / "train.yaml").is_file():
        raise ConfigError(
            f"'{config_dir / 'train.yaml'}' does not exist: run this where train.py is, or give "
            "--config-dir."
        )
    schemas.register()
    try:
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            cfg = hydra_compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra names the override; which key and type it breaks, only the cause says.
        lines = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        raise ConfigError("\n".join(lines)) from error
    return check(cfg)


def estimate(config: TrainConfig) -> list[str]:
    """Memory, forward passes, and time measured on one batch, as lines of text."""
    dataset = build_dataset(config.dataset)
    num_train, num_test = num_training_images(config, dataset), len(dataset.test)
    backbone = build_backbone(config.backbone, choose_device(config.trainer.accelerator))
    seconds = seconds_per_image(build_extractor(config, backbone))
    return [
        *describe(config, planned_layout(config), num_train, num_test),
        f"time: about {(num_train + num_test) * seconds:.0f} s of forward passes on "
        f"{backbone.device} ({1000 * seconds:.0f} ms an image)",
    ]


def blocks(config: TrainConfig) -> list[str]:
    """A table of the backbone's decoder blocks at `dataset.image_size`."""
    backbone = build_backbone_without_weights(config.backbone)
    lines = [f"{backbone.name}: decoder blocks, 0 = deepest", "block  channels     size  layers"]
    for block in backbone.blocks:
        side = config.dataset.image_size // block.stride
        lines.append(f"{block.index:>5}  {block.channels:>8}  {side:>3}x{side:<3}  {block.modules}")
    return lines
