"""What the settings of a dataset and of a backbone share: they build the part and its files."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from ddpmseg.errors import ConfigError


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Raise ConfigError unless the setting `key` has one of the allowed values."""
    if value not in allowed:
        raise ConfigError(f"`{key}={value}`: must be one of {', '.join(allowed)}.")


def at_least(key: str, value: int | None, least: int) -> None:
    """Raise ConfigError where the setting `key` is below `least`; null passes."""
    if value is not None and value < least:
        raise ConfigError(f"`{key}={value}`: must be at least {least}.")


@dataclass
class PartConfig:
    """A config group that builds one object: its fields are the arguments of the class `_target_`.

    Class attributes: `group`, the name of the config group; `resolvers`, OmegaConf resolvers that
    the YAML files of this family use, by name.
    """

    group: ClassVar[str]
    resolvers: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    _target_: str = MISSING
    name: str = MISSING

    def check_target(self) -> None:
        """Raise ConfigError where `_target_` is not the one of this family.

        The command line must not choose which code is run.
        """
        own = type(self)._target_
        if self._target_ != own:
            raise ConfigError(
                f"`{self.group}._target_={self._target_}`: this {self.group} builds {own}, and no "
                f"setting changes that. Choose another `{self.group}`, or add one of your own as "
                f"docs/add_a_{self.group}.md shows."
            )

    def check(self) -> None:
        """Raise ConfigError for a setting out of its range; reads no files."""

    def check_files(self) -> None:
        """Raise UserError where a file is not there that nobody will fetch."""

    def missing(self) -> Path | None:
        """What the part reads and is not there; None where nothing is missing."""
        return None

    def will_fetch(self) -> bool:
        """Whether something is missing and `download` allows to fetch it."""
        return False

    def fetch(self, downloads: Path) -> None:
        """Fetch what the part reads; archives stay in the folder `downloads`.

        Raises ConfigError where nothing can be fetched.
        """
        raise ConfigError(f"`{self.group}={self.name}` reads no files: nothing to fetch.")

    def arguments(self) -> dict[str, Any]:
        """The arguments of the class `_target_` by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "_target_"}

    def construct(self, **changes: Any) -> Any:
        """An object of the class `_target_`; `changes` replace arguments."""
        from hydra.utils import get_class

        self.check_target()
        return get_class(self._target_)(**(self.arguments() | changes))
