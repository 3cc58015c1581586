"""Commands as text: how this process was called, and commands that a user can paste."""

import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PROGRAMS = ("train", "sweep")
"""Commands that Hydra configures; each is a script of its own as well."""
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.\-]*")
"""Text that Hydra reads as itself without quotes, but for `LITERALS`."""
LITERALS = frozenset({"null", "true", "false", "inf", "nan"})


def program_arguments() -> list[str]:
    """What the program was given: the same for `ddpmseg train X` and `python train.py X`."""
    given = sys.argv[1:]
    return given[1:] if given and given[0] in PROGRAMS else given


def called_command() -> str:
    """The command that started this process, for a shell to repeat."""
    program = Path(sys.argv[0])
    words = [program.name]
    if program.name == "__main__.py":
        words = ["python", "-m", program.parent.name]
    elif program.suffix == ".py":
        words = ["python", program.name]
    return shlex.join([*words, *sys.argv[1:]])


def command(*words: str | Path, settings: Mapping[str, Any] | None = None) -> str:
    """`ddpmseg` with these words and an override for each of the settings, for a shell."""
    given = shlex.join(["ddpmseg", *map(str, words)])
    return f"{given} {overrides(settings)}" if settings else given


def overrides(settings: Mapping[str, Any]) -> str:
    """Settings by their dotted keys, for a shell; see `override`."""
    return " ".join(override(key, value) for key, value in settings.items())


def override(key: str, value: Any) -> str:
    """`key=value` for a shell, quoted where need be; Hydra then reads the very value.

    value: strings, numbers, booleans, None, and lists and mappings of these; any other value, such
    as a path, is written as its `str`.
    """
    return shlex.quote(hydra_override(key, value))


def hydra_override(key: str, value: Any) -> str:
    """As `override`, without the quotes of a shell."""
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    """The value in Hydra's grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        items = (f"{_literal(str(key))}:{_literal(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ",".join(map(_literal, value)) + "]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    if PLAIN.fullmatch(text) and text.lower() not in LITERALS:
        return text
    # OmegaConf would replace `${...}`. A backslash stands for itself, except before one of these
    # and before a quote, inside the text or at its end. Double quotes: the shell's are single.
    escaped = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)
    escaped = re.sub(r'(\\*)(")', lambda found: 2 * found[1] + r"\"", escaped)
    escaped = re.sub(r"\\+$", lambda found: 2 * found[0], escaped)
    return f'"{escaped}"'
