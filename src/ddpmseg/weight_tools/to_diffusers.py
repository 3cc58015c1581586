"""Converts weights of guided_diffusion to a model of the diffusers library.

Before the model gets its name, it is loaded and compared with the original on a random image: all
decoder blocks and the predicted noise must agree.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor

from ddpmseg.backbones.diffusers.backbone import DiffusersBackbone
from ddpmseg.backbones.diffusers.convert import scheduler_config, to_unet2d, unet2d_config
from ddpmseg.backbones.diffusers.unet2d import diffusers_library
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.describe import network_shapes
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.command_line import command, overrides
from ddpmseg.composition.checks import typed_config
from ddpmseg.composition.plan import compose
from ddpmseg.config import TrainConfig
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.io.files import atomic_folder
from ddpmseg.weights.keywords import RANDOM
from ddpmseg.weights.model_folder import CONFIG, INDEX, SCHEDULER, WEIGHTS
from ddpmseg.weights.read import read_state_dict, resolve_checkpoint
from ddpmseg.weights.shapes import differences, shapes_of

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Allowed difference of a map, relative to its largest value: rounding in sums of another order."""


def flags_from(config_dir: Path | None, overrides: list[str]) -> UNetFlags:
    """Compose `backbone.unet` from overrides of train.

    Raises ConfigError for a backbone without such flags.
    """

    def check(cfg: DictConfig) -> TrainConfig:
        if "unet" not in cfg.backbone:
            raise ConfigError(
                f"`backbone={cfg.backbone.name}` has no flags of guided_diffusion: choose one such "
                "as backbone=guided_diffusion_256, and set `backbone.unet.*`."
            )
        cfg.backbone.checkpoint = RANDOM  # the file is an argument of the command
        return typed_config(cfg)

    flags = compose(config_dir, overrides, check).backbone.unet_flags()
    assert flags is not None
    return flags


def convert_to_diffusers(checkpoint: str, output: Path, flags: UNetFlags) -> None:
    """Write a guided_diffusion checkpoint as the folder of a diffusers DDPMPipeline.

    Raises CheckpointError for a file that cannot be read or does not fit the flags, and if the two
    networks disagree; ConfigError for flags without an equal in diffusers and an existing output.
    """
    library = diffusers_library()
    _check_new(output)
    path = resolve_checkpoint(checkpoint)
    config = unet2d_config(flags)
    state = read_state_dict(path, mapped=True)
    if problems := differences(shapes_of(state), network_shapes(flags)):
        raise CheckpointError(
            f"checkpoint '{path}' does not fit `backbone.unet` ({len(problems)} parameters differ, "
            f"first: {problems[0]}). `{command('weights', 'describe', path)}` says which flags fit."
        )
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    version = {"_diffusers_version": library.__version__}
    with atomic_folder(output) as folder:
        for name in parts:
            (folder / name).mkdir()
        _write_json(folder / INDEX, {"_class_name": "DDPMPipeline"} | version | parts)
        _write_json(folder / "scheduler" / SCHEDULER, scheduler_config(flags) | version)
        _write_json(folder / "unet" / CONFIG, config | version)
        converted = {key: value.contiguous() for key, value in to_unet2d(state, flags).items()}
        (folder / "unet" / WEIGHTS).write_bytes(save(converted, {"format": "pt"}))
        del converted
        _check_agreement(state, flags, folder)
    chosen = {"backbone": "diffusers", "backbone.checkpoint": output}
    log.info("wrote %s: use it with `%s`", output, overrides(chosen))


def _check_new(output: Path) -> None:
    if output.exists():
        raise ConfigError(f"'{output}' exists already. Remove it, or name another output.")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def _check_agreement(state: dict[str, Tensor], flags: UNetFlags, folder: Path) -> None:
    """Raise CheckpointError unless both networks compute the same from a random image.

    `state` has the parameters of guided_diffusion, `folder` holds the model of diffusers.
    """
    with torch.device("meta"):
        guided = GuidedDiffusionBackbone("guided_diffusion", flags, RANDOM)
    guided.unet.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    # Both take x_t itself, so the schedule does not matter.
    other = DiffusersBackbone("diffusers", str(folder), noise_schedule="linear")
    side = min(flags.image_size, 2 * guided.blocks[0].input_stride)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, flags.diffusion_steps * 3 // 4])
    blocks = range(len(guided.blocks))
    expected = guided.native_maps(images, timesteps, blocks)
    actual = other.native_maps(images, timesteps, blocks)
    expected[-1] = guided.unet(images, timesteps)
    actual[-1] = other.unet(images, timesteps).sample  # by the library itself
    errors = {block: _relative_error(actual[block], expected[block]) for block in expected}
    worst = max(errors, key=lambda block: errors[block])
    where = "the predicted noise" if worst == -1 else f"block {worst}"
    if not errors[worst] <= TOLERANCE:  # NaN is not
        raise CheckpointError(
            f"the networks disagree: {where} differs by {errors[worst]:.1e} of its largest value, "
            f"more than {TOLERANCE:.0e}. Nothing was written. Are the weights finite numbers?"
        )
    log.info(
        "checked on a random image of %d pixels: %d blocks and the predicted noise agree, at most "
        "%.1e apart (%s)",
        *(side, len(blocks), errors[worst], where),
    )


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest magnitude."""
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return ((actual - expected).abs().max() / largest).item()
