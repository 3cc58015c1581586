"""Groups of settings with their choices, and the keys in them: what help and completion show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddpmseg import config
from ddpmseg.config.search_path import packaged_folder


class Choices:
    """What can be chosen on the command line of a program, 'train' or 'sweep'."""

    def __init__(self, program: str, loader: ConfigLoader) -> None:
        self.program = program
        self._loader = loader

    @property
    def groups(self) -> list[str]:
        """Groups that the program reads, in the order of its defaults list, and Hydra's launchers.

        A group that is read under another name is `GROUP@NAME`.
        """
        root = OmegaConf.load(packaged_folder() / f"{self.program}.yaml")
        defaults = OmegaConf.select(root, "defaults")
        names = [str(next(iter(entry))) for entry in defaults if not isinstance(entry, str)]
        shown = [name for name in names if name.split()[0] not in ("override", "optional")]
        return [*(name for name in shown if name != "hydra"), "hydra/launcher"]

    def of_group(self, group: str) -> list[str]:
        """Its choices, those in folders below it by their path; without the schemas under them.

        Experiments are those of the program: experiment/sweep/ has the others'.
        """
        bare = group.partition("@")[0]
        names = self._loader.get_group_options(bare, ObjectType.CONFIG)
        chosen = [name for name in names if name != "schema" and not name.endswith("_schema")]
        for folder in self._loader.get_group_options(bare, ObjectType.GROUP):
            chosen += [f"{folder}/{name}" for name in self.of_group(f"{bare}/{folder}")]
        if bare == "experiment":
            return [n for n in chosen if n.startswith("sweep/") == (self.program == "sweep")]
        return chosen

    def values(self, overrides: list[str]) -> dict[str, Any]:
        """Every setting and its value by its dotted key; empty where the overrides do not fit."""
        try:
            cfg = compose(self.program, overrides)
        except (HydraException, OmegaConfBaseException):
            return {}
        return dict(_leaves(cfg, ""))


@contextmanager
def choices(program: str, config_dir: Path | None = None) -> Iterator[Choices]:
    """What can be chosen; files in `config_dir` hide those of the same name elsewhere."""
    config.register()
    folder = config_dir or packaged_folder()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        yield Choices(program, GlobalHydra.instance().config_loader())


def _leaves(cfg: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items_ex(resolve=False):
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}", value
