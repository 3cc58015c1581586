"""Registries of families of parts, by name, which installed packages can extend."""

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from omegaconf import MISSING

from ddpmseg.errors import ConfigError

Settings = TypeVar("Settings")


class Registry(Generic[Settings]):
    """Maps the name of a family to the dataclass of its settings, imported at its first use.

    A package adds a family by an entry point of the group `ddpmseg.backbones` (or `.datasets`,
    `.heads`), with the family's name and the value 'package.module:SettingsClass'. Installing the
    package permits running its code.

    Args:
        group: config group of these parts, such as 'backbone'.
        base: base class of every family's dataclass.
        families: name -> 'module:SettingsClass' of the families in this package.
    """

    def __init__(self, group: str, base: type[Settings], families: Mapping[str, str]) -> None:
        self.group, self.base = group, base
        self._families = dict(families)

    def names(self) -> tuple[str, ...]:
        """Names of all families, those of this package first."""
        return (*self._families, *self.installed())

    def installed(self) -> dict[str, EntryPoint]:
        """Name of a family -> entry point of the package that adds it.

        Raises ConfigError for a name that is taken, or not allowed on a command line.
        """
        points: dict[str, EntryPoint] = {}
        for point in _entry_points(f"ddpmseg.{self.group}s", tuple(sys.path)):
            if not re.fullmatch(r"\w+", point.name):
                raise ConfigError(
                    f"{self._says(point)}: a name has letters, digits and underscores only. "
                    "Rename it in the package's pyproject.toml."
                )
            if point.name in self._families or point.name in points:
                other = _package(points[point.name]) if point.name in points else "ddpmseg"
                raise ConfigError(
                    f"{self._says(point)}, but {other} has one of this name. Rename it in the "
                    "package's pyproject.toml, or uninstall one of the two."
                )
            points[point.name] = point
        return points

    def __getitem__(self, name: str) -> type[Settings]:
        """The settings class of a family.

        Raises ConfigError for an unknown name, and for an entry point that cannot be imported or is
        no dataclass derived from `base` with a `_target_`.
        """
        if name in self._families:
            module, _, attribute = self._families[name].partition(":")
            return getattr(import_module(module), attribute)
        installed = self.installed()
        if name not in installed:
            known = ", ".join(self.names())
            raise ConfigError(f"there is no {self.group} family '{name}'; there are {known}.")
        return self._loaded(installed[name])

    def schemas(self) -> dict[str, type[Settings]]:
        """Name -> settings class of every family. Raises ConfigError as `__getitem__`."""
        return {name: self[name] for name in self.names()}

    def by_target(self, target: str) -> type[Settings]:
        """The settings class with this `_target_`. Raises ConfigError if no family has it."""
        schemas = self.schemas().values()
        for schema in schemas:
            if vars(schema).get("_target_") == target:
                return schema
        allowed = ", ".join(str(vars(schema).get("_target_")) for schema in schemas)
        raise ConfigError(
            f"`{self.group}._target_={target}` is unknown; allowed are {allowed}. If it comes from "
            "another package, install that package."
        )

    def _loaded(self, point: EntryPoint) -> type[Settings]:
        try:
            loaded: Any = point.load()
        except Exception as error:  # a module may raise anything while it is imported
            raise ConfigError(
                f"{self._says(point)}, which cannot be imported ({type(error).__name__}: {error}). "
                f"Correct the package, or uninstall it: pip uninstall {_package(point)}"
            ) from error
        base = f"{self.base.__module__}.{self.base.__name__}"
        derived = isinstance(loaded, type) and issubclass(loaded, self.base)
        if not derived or "__dataclass_fields__" not in vars(loaded):
            raise ConfigError(
                f"{self._says(point)}, which is no dataclass derived from {base}. Correct the "
                f"package, or uninstall it: pip uninstall {_package(point)}"
            )
        if hasattr(self.base, "_target_") and vars(loaded).get("_target_", MISSING) == MISSING:
            raise ConfigError(
                f"{self._says(point)}, which has no `_target_` of its own: it names the class to "
                "build, as 'package.module.Class'. Add it to the dataclass."
            )
        return cast("type[Settings]", loaded)

    def _says(self, point: EntryPoint) -> str:
        return (
            f"package '{_package(point)}' adds the {self.group} '{point.name}' = '{point.value}' "
            f"(entry points '{point.group}')"
        )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


@lru_cache(maxsize=16)
def _entry_points(group: str, _search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read the metadata of every installed package, once per search path: 10 to 50 ms."""
    return tuple(entry_points(group=group))
