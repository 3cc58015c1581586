"""What no setting may be, whichever it is: checked over all settings at once."""

import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ddpmseg.errors import ConfigError
from ddpmseg.limits import LARGEST, LARGEST_SEED, no_path

NAMED = ("dataset", "backbone", "segmenter")
"""Groups whose `name` becomes a part of the output folder's name."""
HYDRA = "hydra"
"""Where Hydra has settings of its own."""
NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")


def check_values(config: Any) -> None:
    """Raise ConfigError for a setting with a value that none can have.

    config: the root of the settings, a dataclass of dataclasses. Refused are numbers that are
    not finite, whole numbers beyond `LARGEST`, seeds outside 0..`LARGEST_SEED`, text that
    no path can hold, and names that would lead out of the folder they name.
    """
    settings = dict(_settings(config))
    for key, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            _check_value(key, item)
    for group in NAMED:
        name = settings.get(f"{group}.name")
        if isinstance(name, str) and (not name.strip() or NO_NAME.search(name)):
            raise ConfigError(
                f"`{group}.name={name}`: the name becomes a part of the output folder's. It must "
                "be text without slashes and control characters, as in my_set."
            )


def refuse_unknown(cfg: DictConfig) -> None:
    """Raise ConfigError for a key that an override with + has added; the message names the nearest.

    cfg: the composed settings, of which `hydra` is left out.
    """
    parts = list(_parts(cfg))
    for prefix, part, schema in parts:
        for name in part:
            if name not in schema and f"{prefix}{name}" != HYDRA:
                known = [f"{above}{field}" for above, _, names in parts for field in names]
                raise _unknown(f"{prefix}{name}", part._get_node(name), known)


def _parts(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, set[str]]]:
    """Every group of settings that has a schema: its prefix, itself, the names of its schema."""
    schema = OmegaConf.get_type(cfg)
    if not is_dataclass(schema):
        return
    yield prefix, cfg, {field.name for field in fields(schema)}
    for name in cfg:
        part = None if f"{prefix}{name}" == HYDRA else cfg._get_node(name)
        if isinstance(part, DictConfig) and not part._is_missing() and not part._is_none():
            yield from _parts(part, f"{prefix}{name}.")


def _unknown(key: str, value: Any, known: list[str]) -> ConfigError:
    ends = {name.rpartition(".")[2]: name for name in known}
    near = get_close_matches(key, known, n=1, cutoff=0.8)
    near = near or [ends[end] for end in get_close_matches(key.rpartition(".")[2], ends, n=1)]
    hint = f" Did you mean `{near[0]}`?" if near else ""
    return ConfigError(
        f"`{key}={value}`: there is no such setting.{hint} `--cfg job` prints all settings."
    )


def _settings(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values below `part` that are no dataclasses, by dotted key."""
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _check_value(key: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        is_seed = re.search(r"(^|[._])seeds?$", key) is not None
        if is_seed and not 0 <= value <= LARGEST_SEED:
            raise ConfigError(
                f"`{key}={_shortened(value)}`: a seed must lie in 0..{LARGEST_SEED} (2^63 - 1)."
            )
        if not is_seed and abs(value) > LARGEST:
            raise ConfigError(
                f"`{key}={_shortened(value)}`: no setting takes a number beyond {LARGEST}."
            )
    elif isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"`{key}={value}`: must be a finite number.")
    elif isinstance(value, str) and (problem := no_path(value)):
        raise ConfigError(f"`{key}={value[:60]}...`: {problem}.")


def _shortened(number: int) -> str:
    digits = 40
    if abs(number).bit_length() > sys.int_info.default_max_str_digits * 3:
        return "..."
    shown = str(number)
    return shown if len(shown) <= digits else f"{shown[:digits]}..."
