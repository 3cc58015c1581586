"""Overrides of a command line, checked before Hydra composes them; messages name the override."""

import re
import traceback
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ddpmseg.command_line import hydra_override, override
from ddpmseg.errors import ConfigError, UserError

BRACKETS = "[{("
COMPOSING = (HydraException, OmegaConfBaseException, RuntimeError, TypeError, ValueError)
"""What Hydra raises for settings that it cannot compose."""
NOISE = re.compile(
    r"\n?(See https://hydra\.cc\S*.*|Config search path:(.|\n)*|\s*(object|reference)_type=.*)"
)
"""Lines of Hydra's messages that say nothing about the mistake."""


def check_overrides(
    words: Sequence[str], choices: Callable[[str], Sequence[str]], multirun: bool = False
) -> None:
    """Raise ConfigError for a word that Hydra cannot read, or would misunderstand.

    choices: those of a config group by its name; empty where there is no such group. Without
    `multirun` a word must have one value.
    """
    multirun = multirun or any(word.startswith("hydra.mode=MULTIRUN") for word in words)
    for word in words:
        parsed = parsed_override(word)
        key = parsed.key_or_group
        if not key:
            raise ConfigError(f"`{word}` names no setting. {_form()}")
        if re.match(r"hydra(\.\w+)*$", key) and "_target_" in word:
            raise ConfigError(
                f"`{word}`: no setting chooses the code that runs. Choose a launcher by its name, "
                "as in `hydra/launcher=joblib`."
            )
        if parsed.is_delete() and not re.match("hydra[./]", key):
            raise ConfigError(
                f"`{word}`: a setting can be changed, but not removed. Give `{key}` another value, "
                "or leave this word out."
            )
        if parsed.is_sweep_override():
            if not multirun:
                raise ConfigError(_several(word, key))
            continue
        # Groups have no dots, and asking Hydra for their choices takes a tenth of a second.
        if "." in key or isinstance(parsed.value(), str | list | dict):
            continue
        if names := choices(key):
            raise ConfigError(
                f"`{word}`: `{key}` is a group of settings and takes the name of a choice: "
                f"{', '.join(names)}."
            )


def parsed_override(word: str) -> Override:
    """The override as Hydra reads it. Raises ConfigError for what is not its grammar."""
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError, ValueError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, HydraException) else "too long"
        raise ConfigError(f"`{_cut(word)}` is no override that Hydra can read ({_cut(reason)}). "
                          f"{_remedy(word)}") from error  # fmt: skip


def composition_error(error: BaseException) -> ConfigError:
    """The sentence about settings that could not be composed, for an error of `COMPOSING`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return ConfigError(str(cause))
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, RecursionError):
        return ConfigError(
            "the files of the configuration include each other in a circle. Look at the defaults "
            "lists of those that are chosen."
        )
    lines = [str(error)]
    if isinstance(error, HydraException) and error.__cause__ is not None:
        # Hydra names the override; which key and type it breaks, only the cause says.
        lines.append(str(error.__cause__))
    text = NOISE.sub("", "\n".join(lines)).strip()
    return ConfigError(text or type(error).__name__)


def raised_in(error: BaseException, file: str) -> bool:
    """Whether a function of the source file `file` was running when the error was raised."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename == file for frame, _ in frames)


def _form() -> str:
    return "A setting is given as group=choice or group.key=value."


def _remedy(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return _form()
    if not re.fullmatch(r"[~+]{0,2}[\w./@:-]+", key):
        return f"{_form()} Its name has letters, digits, dots and underscores."
    if value[:1] in ('"', "'"):
        return "Its quotes do not match: each that opens must close at the end of the value."
    if value.lstrip()[:1] in BRACKETS:
        return "Its brackets do not match, or the list is written otherwise than [a,b]."
    return f"Quote the value for Hydra, and all of it for the shell: {override(key, value)}"


def _several(word: str, key: str) -> str:
    value = word.partition("=")[2]
    text = f"`{word}` gives several values, a job for each, which only `-m` runs."
    if re.fullmatch(r"[-\d.,\s]+", value):
        return f"{text} A list stands in brackets: {key}=[{value}]"
    quoted = hydra_override(key, value)
    return f"{text} A text with commas is quoted for Hydra, and for the shell: '{quoted}'"


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
