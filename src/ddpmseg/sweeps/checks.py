"""Everything that can be wrong with the configuration of a sweep."""

from typing import get_args

from omegaconf import DictConfig

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.composition.build import as_training
from ddpmseg.composition.checks import check_training, typed_config
from ddpmseg.config import SweepConfig
from ddpmseg.errors import ConfigError
from ddpmseg.features.noise import NoiseKind
from ddpmseg.settings import at_least, one_of

CONTROLS = ("pixels", "random")


def checked_sweep(cfg: DictConfig) -> SweepConfig:
    """The composed configuration of a sweep as typed objects, after all checks that need no data.

    Where they are null, `sweep.blocks` becomes the list of the network's blocks, and
    `sweep.timesteps` that of the grid; [0] where the network knows none. Raises as
    `checked_config`.
    """
    config = typed_config(cfg, SweepConfig)
    sweep = config.sweep
    backbone = config.backbone.shape()
    every = range(len(backbone.blocks))
    if backbone.num_timesteps is None:
        _refuse_timesteps("sweep.timesteps", sweep.timesteps, backbone)
        _refuse_timesteps("sweep.clusters.timesteps", sweep.clusters.timesteps, backbone)
        sweep.timesteps, sweep.clusters.timesteps = [0], [0]
    elif sweep.timesteps is None:
        sweep.timesteps = sweep.grid_timesteps
    steps = range(backbone.num_timesteps or 1)
    sweep.blocks = _grid_axis(
        "blocks", list(backbone.default_blocks) if sweep.blocks is None else sweep.blocks, every
    )
    sweep.timesteps = _grid_axis("timesteps", sweep.timesteps, steps)
    sweep.seeds = _grid_axis("seeds", sweep.seeds, range(2**31))
    clusters = sweep.clusters
    at_least("sweep.clusters.k", clusters.k, 2)
    at_least("sweep.clusters.images", clusters.images, 0)
    if clusters.blocks is not None:
        clusters.blocks = _grid_axis("clusters.blocks", clusters.blocks, every)
    if clusters.timesteps is not None:
        clusters.timesteps = _grid_axis("clusters.timesteps", clusters.timesteps, steps)
    at_least("sweep.num_examples", sweep.num_examples, 0)
    one_of("sweep.hook", sweep.hook, get_args(Hook))
    one_of("sweep.noise", sweep.noise, get_args(NoiseKind))
    at_least("sweep.batch_size", sweep.batch_size, 1)
    for control in sweep.controls:
        one_of("sweep.controls", control, CONTROLS)
    sweep.head.check_probe()
    for name in ("csv", "tensorboard"):
        if getattr(config.logger, name):
            raise ConfigError(
                f"`logger.{name}=true`: a sweep always writes cells.csv and report.html, and has "
                "nothing more for this logger. Use logger=wandb or logger=none."
            )
    sweep.controls = list(dict.fromkeys(sweep.controls))
    try:
        check_training(as_training(config, sweep.blocks, sweep.timesteps[:1]))
    except ConfigError as error:
        # The same parts go by other keys here.
        keys = str(error).replace("`head.", "`sweep.head.").replace("`features.", "`sweep.")
        raise ConfigError(keys) from error
    return config


def _refuse_timesteps(key: str, given: list[int] | None, backbone: Backbone) -> None:
    """ConfigError for timesteps of a network that knows none; [0] means none."""
    if given not in (None, [0]):
        raise ConfigError(
            f"`{key}={given}`: backbone '{backbone.name}' knows no timesteps; its maps are those "
            "of the clean image. Leave it out: the sweep is over blocks."
        )


def _grid_axis(name: str, chosen: list[int], allowed: range) -> list[int]:
    """The numbers of one axis, ascending; ConfigError for none, repeated or impossible ones."""
    shown = f"{allowed.start}..{allowed.stop - 1}"
    if not chosen:
        raise ConfigError(f"`sweep.{name}=[]`: list at least one number of {shown}.")
    for number in chosen:
        if number not in allowed:
            raise ConfigError(f"`sweep.{name}`: there is no {number}; allowed are {shown}.")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"`sweep.{name}={chosen}` lists a number twice.")
    return sorted(chosen)
