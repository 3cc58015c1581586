"""YAML files that become a choice of a config group, as in `backbone=my_model`."""

from pathlib import Path
from typing import Any

import yaml

from ddpmseg.errors import ConfigError
from ddpmseg.io.files import atomic_write, explain_unwritable, remove_unfinished


def check_choice(path: Path, group: str, option: str) -> None:
    """Raise ConfigError where `path` cannot become conf/GROUP/NAME.yaml, or is there already."""
    if path.suffix != ".yaml" or not path.stem.isidentifier():
        raise ConfigError(
            f"`{option} {path}`: name a file conf/{group}/NAME.yaml, NAME of letters, digits and "
            f"underscores, so that `{group}=NAME` finds it."
        )
    if path.exists():
        raise ConfigError(f"'{path}' exists already. Remove it, or name another {option}.")


def write_choice(path: Path, comments: list[str], schema: str, settings: dict[str, Any]) -> None:
    """Write the settings under their schema; what is chosen has the name of its file."""
    header = [*(f"# {line}" for line in comments), f"defaults: [{schema}, _self_]"]
    content = yaml.safe_dump({"name": path.stem} | settings, sort_keys=False, allow_unicode=True)
    with explain_unwritable(path, "another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent, path.name)
    with atomic_write(path) as unfinished:
        unfinished.write_text("\n".join(header) + "\n" + content, encoding="utf-8")
