"""From the settings of a sweep to its grid and everything else that follows, derived once."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.composition.checks import (
    check_dataset,
    check_features,
    check_trainer,
)
from ddpmseg.composition.memory import check_readout_memory
from ddpmseg.config import SweepConfig, SweepSettings
from ddpmseg.errors import ConfigError
from ddpmseg.features.layout import feature_layout
from ddpmseg.features.noise import NoiseKind
from ddpmseg.io.folders import check_writable
from ddpmseg.runtime.device import choose_device, trainer_precision
from ddpmseg.settings import at_least, one_of

CONTROLS = ("pixels", "random")


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: blocks x timesteps x seeds, each ascending.

    timesteps: [0] for a network without timesteps (`timeless`). controls: as asked for, each once.
    """

    blocks: tuple[int, ...]
    timesteps: tuple[int, ...]
    seeds: tuple[int, ...]
    controls: tuple[str, ...]
    timeless: bool

    @property
    def num_cells(self) -> int:
        return len(self.blocks) * len(self.timesteps) * len(self.seeds)


@dataclass(frozen=True, eq=False)
class ResolvedSweep:
    """The checked settings of a sweep, and what follows from them.

    device, precision: where and how precisely Lightning trains the probes. network: the shape of
    the backbone, on the meta device.
    """

    config: SweepConfig
    grid: Grid
    network: Backbone
    device: torch.device
    precision: str

    @property
    def folder(self) -> Path:
        return Path(self.config.paths.output_dir)


def resolve_sweep(config: SweepConfig, files: bool = True) -> ResolvedSweep:
    """Check everything that can be checked without reading images, and derive what follows.

    Without `files`, images and weights may be missing. Raises as
    `ddpmseg.composition.resolve.resolve`.
    """
    sweep, network = config.sweep, config.backbone.shape()
    grid = _grid(sweep, network)
    _check_settings(config, grid)
    check_trainer(config.trainer, config.logger)
    check_dataset(config.dataset, files)
    try:
        check_features(sweep.features(grid.blocks, grid.timesteps), config.paths)
        sweep.head.check()
        config.backbone.check()
        layout = feature_layout(
            network,
            grid.blocks,
            grid.timesteps[:1],
            sweep.hook,  # pyright: ignore[reportArgumentType]
            config.dataset.image_size,
        )
        device = choose_device(config.trainer.accelerator)
        check_readout_memory(
            *(config.dataset, sweep.head, network, layout, sweep.batch_size, device),
            training=files,
        )
    except ConfigError as error:
        # A sweep has the same settings under other names.
        keys = str(error).replace("`head.", "`sweep.head.").replace("`features.", "`sweep.")
        raise ConfigError(keys) from error
    if files:
        config.backbone.check_files()
    check_writable("paths.output_dir", config.paths.output_dir)
    precision = trainer_precision(config.trainer.precision, sweep.head.exact, device)
    return ResolvedSweep(config, grid, network, device, precision)


def _grid(sweep: SweepSettings, network: Backbone) -> Grid:
    """The axes of the grid; where a list is null, the network's blocks and the grid's timesteps."""
    blocks = list(network.default_blocks) if sweep.blocks is None else sweep.blocks
    if network.num_timesteps is None:
        _refuse_timesteps("sweep.timesteps", sweep.timesteps, network)
        _refuse_timesteps("sweep.clusters.timesteps", sweep.clusters.timesteps, network)
        timesteps = [0]
    else:
        timesteps = sweep.grid_timesteps if sweep.timesteps is None else sweep.timesteps
    every_block, steps = range(len(network.blocks)), range(network.num_timesteps or 1)
    clusters = sweep.clusters
    for name, chosen, allowed in (
        ("clusters.blocks", clusters.blocks, every_block),
        ("clusters.timesteps", clusters.timesteps, steps),
    ):
        if chosen is not None:
            _axis(name, chosen, allowed)
    if sweep.control_timestep is not None:
        _axis("control_timestep", [sweep.control_timestep], steps)
    return Grid(
        blocks=_axis("blocks", blocks, every_block),
        timesteps=_axis("timesteps", timesteps, steps),
        seeds=_axis("seeds", sweep.seeds, range(2**31)),
        controls=tuple(dict.fromkeys(sweep.controls)),
        timeless=network.num_timesteps is None,
    )


def _check_settings(config: SweepConfig, grid: Grid) -> None:
    """The settings that only a sweep has."""
    sweep = config.sweep
    at_least("sweep.clusters.k", sweep.clusters.k, 2)
    at_least("sweep.clusters.images", sweep.clusters.images, 0)
    at_least("sweep.num_examples", sweep.num_examples, 0)
    one_of("sweep.hook", sweep.hook, get_args(Hook))
    one_of("sweep.noise", sweep.noise, get_args(NoiseKind))
    at_least("sweep.batch_size", sweep.batch_size, 1)
    for control in grid.controls:
        one_of("sweep.controls", control, CONTROLS)
    sweep.head.check_probe()
    for name in ("csv", "tensorboard"):
        if getattr(config.logger, name):
            raise ConfigError(
                f"`logger.{name}=true`: a sweep always writes cells.csv and report.html, and has "
                "nothing more for this logger. Use logger=wandb or logger=none."
            )


def _refuse_timesteps(key: str, given: list[int] | None, network: Backbone) -> None:
    """Raise ConfigError for timesteps of a network that has none; [0] means none."""
    if given not in (None, [0]):
        raise ConfigError(
            f"`{key}={given}`: backbone '{network.name}' knows no timesteps; its maps are those "
            "of the clean image. Leave it out: the sweep is over blocks."
        )


def _axis(name: str, chosen: list[int], allowed: range) -> tuple[int, ...]:
    """The numbers of an axis, ascending; ConfigError for none, repeated or impossible ones."""
    shown = f"{allowed.start}..{allowed.stop - 1}"
    if not chosen:
        raise ConfigError(f"`sweep.{name}=[]`: list at least one number of {shown}.")
    for number in chosen:
        if number not in allowed:
            raise ConfigError(f"`sweep.{name}`: there is no {number}; allowed are {shown}.")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"`sweep.{name}={chosen}` lists a number twice.")
    return tuple(sorted(chosen))
