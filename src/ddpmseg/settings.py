"""The base class of settings that build a part, such as a dataset or a backbone."""

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


def at_least(key: str, value: int | None, minimum: int) -> None:
    """Raise ConfigError if the setting `key` is below `minimum`; null passes."""
    if value is not None and value < minimum:
        raise ConfigError(f"`{key}={value}`: must be at least {minimum}.")


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
        """Raise ConfigError if `_target_` is not that of this family.

        The command line must not choose the code that runs.
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
        """Raise UserError if a file is missing and will not be fetched."""

    def missing(self) -> Path | None:
        """A file or folder that the part reads but does not exist; None if nothing is missing."""
        return None

    def will_fetch(self) -> bool:
        """Whether something is missing that `download` allows to fetch."""
        return False

    def fetch(self, downloads: Path) -> None:
        """Fetch the files that the part reads; archives stay in the folder `downloads`.

        Raises ConfigError if nothing can be fetched.
        """
        raise ConfigError(f"`{self.group}={self.name}` reads no files: nothing to fetch.")

    def arguments(self) -> dict[str, Any]:
        """Name -> value of the arguments of the class `_target_`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "_target_"}

    def construct(self, **changes: Any) -> Any:
        """Build an object of the class `_target_`; `changes` replace arguments."""
        from hydra.utils import get_class

        self.check_target()
        return get_class(self._target_)(**(self.arguments() | changes))
