"""The configuration that a run or a sweep left in its folder, as typed objects."""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpmseg.backbones.settings import MOVED
from ddpmseg.config import LoggerConfig, SweepConfig, SweepSettings, TrainConfig
from ddpmseg.config.identity import FIRST_HEAD
from ddpmseg.config.store import PARTS
from ddpmseg.errors import ConfigError
from ddpmseg.heads.registry import HEADS
from ddpmseg.io.damage import DAMAGE
from ddpmseg.io.yaml_file import read_yaml
from ddpmseg.records.folder_kind import CONFIG

Root = TypeVar("Root", TrainConfig, SweepConfig)
PROGRAMS = {TrainConfig: "ddpmseg train", SweepConfig: "ddpmseg sweep"}


def read_config(folder: Path, root: type[Root]) -> Root:
    """What the program of `root` ran with. Raises ConfigError where `folder` is none of its."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"'{folder}' is not the folder of a run: there is no '{path}'.")
    try:
        read_yaml(path, "the configuration")  # refuses what grows without end
        loaded = OmegaConf.load(path)
        assert isinstance(loaded, DictConfig)
        _migrate(loaded)
        typed = OmegaConf.structured(root)
        for parts in PARTS:
            schema = parts.by_target(loaded[parts.group]._target_)
            typed[parts.group] = OmegaConf.structured(schema)
        above, loaded_above = typed, loaded
        if root is SweepConfig:
            typed["sweep"] = OmegaConf.structured(SweepSettings)
            above, loaded_above = typed.sweep, loaded.sweep
        name = loaded_above.head.get("name", FIRST_HEAD)
        above["head"] = OmegaConf.structured(HEADS[name])
        config = OmegaConf.to_object(OmegaConf.merge(typed, loaded))
    except (OmegaConfBaseException, YAMLError, ConfigError, *DAMAGE) as error:
        reason = (str(error).splitlines() or ["it is no mapping"])[0]
        raise ConfigError(
            f"'{path}' is not the configuration of a ddpmseg run ({reason}). "
            f"Name the output folder of {PROGRAMS[root]}."
        ) from error
    assert isinstance(config, root)
    return config


def _migrate(loaded: Any) -> None:
    """Bring the settings of an earlier version to the names of this one."""
    for group in ("dataset", "backbone"):
        target = OmegaConf.select(loaded, f"{group}._target_")
        if target in MOVED:
            loaded[group]._target_ = MOVED[target]
    # No result depends on the loggers, so unknown settings of theirs may go.
    logger = OmegaConf.select(loaded, "logger") or {}
    for key in set(logger) - {field.name for field in fields(LoggerConfig)}:
        del logger[key]
