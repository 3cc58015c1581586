"""Settings that a Python program gives by name, on top of those that the package ships."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddpmseg.composition.checks import typed_config
from ddpmseg.composition.plan import compose
from ddpmseg.config import TrainConfig
from ddpmseg.config.groups import groups_of
from ddpmseg.errors import ConfigError


def chosen(group: str, choice: str, given: Mapping[str, Any]) -> TrainConfig:
    """The settings of `ddpmseg train` with this choice of a group, and its settings replaced.

    given: settings of the group by name, dotted where they lie deeper ('unet.num_channels').
    Raises ConfigError for an unknown choice or setting, and for a value of another type.
    """
    with groups_of("train") as known:
        names = known.choices(group)
    if choice not in names:
        near = ", ".join(get_close_matches(choice, names, n=4, cutoff=0.5) or names)
        raise ConfigError(
            f"there is no {group} '{choice}'. Did you mean one of {near}? All are listed by "
            "`ddpmseg train --help`."
        )

    def replaced(cfg: DictConfig) -> TrainConfig:
        replace(cfg[group], given, f"{group} '{choice}'")
        return typed_config(cfg)

    return compose(None, [f"{group}={choice}"], replaced)


def replace(settings: DictConfig, given: Mapping[str, Any], whose: str) -> None:
    """Replace settings by name. Raises ConfigError as `chosen`."""
    for key, value in given.items():
        if value is None and OmegaConf.select(settings, key) is None:
            continue
        parent = OmegaConf.select(settings, key.rpartition(".")[0]) if "." in key else settings
        if not isinstance(parent, DictConfig) or key.rpartition(".")[2] not in parent:
            known = ", ".join(f"`{name}`" for name in settings if not str(name).startswith("_"))
            raise ConfigError(f"{whose} has no setting `{key}`; it has {known}.")
        try:
            OmegaConf.update(settings, key, value)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{whose}: `{key}={value!r}`: {reason}.") from error
