"""YAML files of the user's, read within bounds: none may grow without end while it is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ddpmseg.errors import ConfigError
from ddpmseg.io.text_file import read_text

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
"""Mappings and lists inside each other."""
MAX_VALUES = 100_000
"""Values of a file in which every alias stands for all that it repeats."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, noun: str) -> Any:
    """The content of a YAML file as plain values; messages call it `noun`.

    Raises ConfigError where the file cannot be read, is not UTF-8 or no YAML, uses tags that name
    classes, or goes beyond `MAX_BYTES`, `MAX_DEPTH` or `MAX_VALUES`.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, of which {MAX_BYTES} are allowed")
        text = read_text(path, noun, ConfigError)
        _check_bounds(yaml.parse(text, _LOADER))
        return yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{noun} '{path}' cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{noun} '{path}' is not valid YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{noun} '{path}' cannot be used: {error}.") from error


def _check_bounds(events: Iterator[Any]) -> None:
    """Raise ValueError for nesting, aliases and values beyond the bounds."""
    sizes: dict[str, int] = {}
    """Values of an anchored node; 0 while it is being read."""
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if sizes.get(event.anchor) == 0:
                raise ValueError(f"the alias *{event.anchor} stands inside what it repeats")
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, total))
            total += 1
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError(f"it nests more than {MAX_DEPTH} lists and mappings")
        elif isinstance(event, yaml.CollectionEndEvent):
            started_as, before = open_nodes.pop()
            if started_as is not None:
                sizes[started_as] = total - before
            continue
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if total > MAX_VALUES:
            raise ValueError(f"it stands for more than {MAX_VALUES} values")
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = 0 if isinstance(event, yaml.CollectionStartEvent) else 1
