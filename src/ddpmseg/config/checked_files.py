"""The files of a configuration as Hydra reads them, each within bounds and named when it is bad."""

from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf.errors import OmegaConfBaseException

from ddpmseg.errors import ConfigError
from ddpmseg.io.yaml_file import read_yaml


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of files, which raises ConfigError naming a file that cannot be used.

    It bears the name of Hydra's own: a process that a launcher starts is handed this one, and then
    registers its own, which is left out if the name is the same.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path) / self._normalize_file_name(config_path)
        if path.is_file():
            _check(read_yaml(path, "the file of settings"), path, config_path)
        try:
            return super().load_config(config_path)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, AttributeError) as error:
            raise ConfigError(f"'{path}' cannot be read as settings: {error}") from error


def register() -> None:
    """Let Hydra read all files so. Its registry takes no second source of files, so it is set."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource


def _check(content: Any, path: Path, config_path: str) -> None:
    """Raise ConfigError where a file is no mapping, or has a defaults list that Hydra trips on."""
    if content is None:
        return
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' must hold settings, as in `key: value`; it holds {content!r}.")
    defaults = content.get("defaults", [])
    if not isinstance(defaults, list) or not all(_is_entry(entry) for entry in defaults):
        raise ConfigError(
            f"'{path}': `defaults` must be a list of names, as in `defaults: [mlp_schema, _self_]`;"
            f" it is {defaults!r}."
        )
    own = config_path.removesuffix(".yaml")
    if own in defaults or f"/{own}" in defaults or own.rpartition("/")[2] in defaults:
        raise ConfigError(f"'{path}' includes itself: take its own name out of `defaults`.")


def _is_entry(entry: Any) -> bool:
    if isinstance(entry, dict):
        return len(entry) == 1
    return isinstance(entry, str)
