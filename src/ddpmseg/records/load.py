"""The configuration that a run or a sweep left in its folder, as typed objects."""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpmseg.config import LoggerConfig, SweepConfig, TrainConfig, schema_of
from ddpmseg.errors import ConfigError
from ddpmseg.records.results import CONFIG

Root = TypeVar("Root", TrainConfig, SweepConfig)


def load_config(run: Path) -> TrainConfig:
    """What `train.py` ran with. Raises ConfigError where `run` is no folder of its."""
    return _load(run, TrainConfig, "train.py")


def load_head_config(run: Path) -> TrainConfig:
    """As `load_config`, of a run that trains a head; ConfigError for one of another task."""
    config = load_config(run)
    if config.task != "segment":
        raise ConfigError(
            f"'{run}' is a run of task={config.task}, which trains no head. Name a run of "
            "task=segment."
        )
    return config


def load_sweep_config(folder: Path) -> SweepConfig:
    """What `sweep.py` last ran with. Raises ConfigError where `folder` is none of its."""
    return _load(folder, SweepConfig, "sweep.py")


def _load(folder: Path, root: type[Root], program: str) -> Root:
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"'{folder}' is not the folder of a run: there is no '{path}'.")
    try:
        loaded = OmegaConf.load(path)
        typed = OmegaConf.structured(root)
        _forget_unknown_loggers(loaded)
        for group in ("dataset", "backbone"):
            typed[group] = OmegaConf.structured(schema_of(OmegaConf.select(loaded, group)._target_))
        config = OmegaConf.to_object(OmegaConf.merge(typed, loaded))
    except (OmegaConfBaseException, YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"'{path}' is not the configuration of a ddpmseg run ({str(error).splitlines()[0]}). "
            f"Name the output folder of {program}."
        ) from error
    assert isinstance(config, root)
    return config


def _forget_unknown_loggers(loaded: Any) -> None:
    """Drop settings of loggers that another version had: no result depends on them."""
    logger = OmegaConf.select(loaded, "logger") or {}
    for key in set(logger) - {field.name for field in fields(LoggerConfig)}:
        del logger[key]
