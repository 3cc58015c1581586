"""Groups of settings with their choices, and the settings that a command line gives."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddpmseg import config
from ddpmseg.command_line import hydra_override
from ddpmseg.config.search_path import packaged_folder
from ddpmseg.download.settings import TRANSFER
from ddpmseg.errors import ConfigError

OTHER_KIND = 1000
"""Distance of a choice with other settings, such as those of another kind of network."""


class Groups:
    """The groups of a program, 'train' or 'sweep', and what can be chosen from them."""

    def __init__(self, program: str, loader: ConfigLoader) -> None:
        self.program = program
        self._loader = loader

    @property
    def names(self) -> list[str]:
        """Groups that the program reads, in the order of its defaults list, and Hydra's launchers.

        A group that is read under another name is `GROUP@NAME`.
        """
        root = OmegaConf.load(packaged_folder() / f"{self.program}.yaml")
        defaults = OmegaConf.select(root, "defaults")
        names = [str(next(iter(entry))) for entry in defaults if not isinstance(entry, str)]
        shown = [name for name in names if name.split()[0] not in ("override", "optional")]
        return [*(name for name in shown if name != "hydra"), "hydra/launcher"]

    def choices(self, group: str) -> list[str]:
        """Its choices, those in folders below it by their path; without the schemas under them.

        Experiments are those of the program: experiment/sweep/ has the others'.
        """
        bare = group.partition("@")[0]
        names = self._loader.get_group_options(bare, ObjectType.CONFIG)
        chosen = [name for name in names if name != "schema" and not name.endswith("_schema")]
        for folder in self._loader.get_group_options(bare, ObjectType.GROUP):
            chosen += [f"{folder}/{name}" for name in self.choices(f"{bare}/{folder}")]
        if bare == "experiment":
            return [n for n in chosen if n.startswith("sweep/") == (self.program == "sweep")]
        return chosen

    def values(self, overrides: list[str], resolved: Collection[str] = ()) -> dict[str, Any]:
        """Every setting and its value by its dotted key; empty where the overrides do not fit.

        A value made of others is their interpolation, except in the groups `resolved`.
        """
        try:
            cfg = compose(self.program, overrides)
            found = dict(_leaves(cfg, ""))
            for group in resolved:
                settings = OmegaConf.create(OmegaConf.to_container(cfg[group], resolve=True))
                assert isinstance(settings, DictConfig)
                found |= _leaves(settings, f"{group}.")
        except (HydraException, OmegaConfBaseException):
            return {}
        return found


@contextmanager
def groups_of(program: str, config_dir: Path | None = None) -> Iterator[Groups]:
    """What can be chosen; files in `config_dir` hide those of the same name elsewhere."""
    config.register()
    folder = config_dir or packaged_folder()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        yield Groups(program, GlobalHydra.instance().config_loader())


def overrides_of(**parts: Any) -> dict[str, Any]:
    """Overrides of `ddpmseg train` that give these parts of a configuration, as few as may be.

    parts: dataclasses by their group, such as dataset and backbone. How their files are fetched is
    left out.
    """
    wanted = {
        key: value
        for group, part in parts.items()
        for key, value in _leaves(OmegaConf.structured(part), f"{group}.")
        if key.rpartition(".")[2] not in TRANSFER
    }
    with groups_of("train") as groups:
        given: dict[str, Any] = {
            group: _closest(groups, group, part)
            for group, part in parts.items()
            if OmegaConf.select(OmegaConf.structured(part), "_target_")
        }
        # Values that others are made of come first.
        for resolved in ((), tuple(parts)):
            lines = [hydra_override(key, value) for key, value in given.items()]
            given |= _differences(groups.values(lines, resolved), wanted)
    return given


def _closest(groups: Groups, group: str, part: Any) -> str:
    """The choice of its name where there is one, else one of its kind that differs least."""
    choices = groups.choices(group)
    wanted = dict(_leaves(OmegaConf.structured(part), f"{group}."))

    def distance(choice: str) -> int:
        values = groups.values([hydra_override(group, choice)])
        own = {key: value for key, value in values.items() if key.startswith(f"{group}.")}
        return len(_differences(own, wanted)) + OTHER_KIND * (own.keys() != wanted.keys())

    if part.name in choices and distance(part.name) < OTHER_KIND:
        return part.name
    kind = _schema(group, part)
    return min((name for name in choices if name.startswith(kind)), key=distance)


def _schema(group: str, part: Any) -> str:
    """The name of the schema that `part` has, less its ending."""
    for name, stored in ConfigStore.instance().repo[group].items():
        if name.endswith("_schema.yaml") and OmegaConf.get_type(stored.node) is type(part):
            return name.removesuffix("_schema.yaml")
    raise ConfigError(f"{type(part).__name__} is no schema of the group '{group}'.")


def _differences(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What is wanted otherwise than it is; interpolations are left out."""
    return {
        key: wanted[key]
        for key, value in values.items()
        if key in wanted and value != wanted[key] and "${" not in str(value)
    }


def _leaves(cfg: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    """Settings by dotted key, lists as a whole; without the names of the classes they describe."""
    for key, value in cfg.items_ex(resolve=False):
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}", value
