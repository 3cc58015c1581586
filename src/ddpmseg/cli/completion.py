"""Completion with TAB of all commands, their options, and the settings of the programs.

The shell asks the interpreter that has installed the completion, by its path: so it works without
activation of an environment, and whatever folder the environment lies in. The parser is read by
argcomplete; settings are completed here.
"""

import argparse
import shlex
import sys
from pathlib import Path

from ddpmseg.command_line import hydra_override
from ddpmseg.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")
ASK = "_ddpmseg_completion"
"""Shell function that starts the interpreter which completes."""
REMOVE = {
    "bash": f"complete -r ddpmseg; unset -f {ASK}",
    "zsh": f"compdef -d ddpmseg; unset -f {ASK}",
    "fish": f"complete --erase --command ddpmseg; functions --erase {ASK}",
}


def shell_code(overrides: list[str]) -> str:
    """What a shell evaluates for `install=SHELL` or `uninstall=SHELL`.

    Raises ConfigError for anything else.
    """
    action, _, shell = " ".join(overrides).partition("=")
    if action not in ("install", "uninstall") or shell not in SHELLS:
        raise ConfigError(
            f"`-sc {' '.join(overrides)}`: give install=SHELL or uninstall=SHELL, where SHELL is "
            f'one of {", ".join(SHELLS)}, as in: eval "$(ddpmseg train -sc install=bash)"'
        )
    if action == "uninstall":
        return REMOVE[shell]
    from argcomplete.shell_integration import shellcode

    # -P: files in the working directory are not imported.
    ask = f"{shlex.quote(sys.executable)} -P -m ddpmseg"
    function = f"function {ASK}; {ask}; end" if shell == "fish" else f"{ASK}() {{ {ask}; }}"
    return f"{function}\n{shellcode(['ddpmseg'], shell=shell, argcomplete_script=ASK)}"


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completion, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options=False)


def add_settings(
    command: argparse.ArgumentParser, program: str, name: str, text: str, metavar: str | None = None
) -> None:
    """Let the command take overrides of `program` as its argument `name`."""

    def complete(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        earlier = [word for word in getattr(parsed_args, name) or [] if "=" in word]
        return completed(program, prefix, earlier, getattr(parsed_args, "config_dir", None))

    argument = command.add_argument(name, nargs="*", help=text, metavar=metavar)
    argument.completer = complete  # pyright: ignore[reportAttributeAccessIssue]


def add_choice(command: argparse.ArgumentParser, name: str, group: str, text: str) -> None:
    """Let the command take a choice of a config group as its argument `name`."""

    def complete(parsed_args: argparse.Namespace, **_: object) -> list[str]:
        from ddpmseg.config.groups import groups_of

        with groups_of("train", getattr(parsed_args, "config_dir", None)) as groups:
            return groups.choices(group)

    argument = command.add_argument(name, help=text)
    argument.completer = complete  # pyright: ignore[reportAttributeAccessIssue]


def completed(
    program: str, word: str, earlier: list[str], config_dir: Path | None = None
) -> list[str]:
    """Words that begin with `word` and are, or begin, an override of `program`.

    Before `=`: groups and keys. After it: the choices of a group, or the value that a key has after
    the overrides `earlier`, or files where the value looks like a path.
    """
    from ddpmseg.config.groups import groups_of

    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    quote = value[:1] if value[:1] in ('"', "'") else ""
    if equals and value.removeprefix(quote).startswith((".", "/", "~")):
        return _file_overrides(key, value.removeprefix(quote), quote)
    with groups_of(program, config_dir) as groups:
        if equals and (name in groups.names or groups.choices(name)):
            before, comma, _ = value.rpartition(",")
            return [f"{key}={before}{comma}{choice}" for choice in groups.choices(name)]
        values = groups.values(earlier)
        if equals:
            shown = [] if name not in values else _likely(values[name])
            return [hydra_override(key, each) for each in shown]
        found = [group for group in groups.names if groups.choices(group) != ["default"]]
        # All keys of all groups would be too many to look at.
        found += [name for name in values if word or "." not in name]
    return [f"{key.removesuffix(name)}{each}=" for each in found if each.startswith(name)]


def _likely(value: object) -> list[object]:
    """Values that may be meant; none where there is none yet, or other settings decide it."""
    if isinstance(value, bool):
        return [True, False]
    text = str(value)
    return [] if text == "???" or "${" in text else [value]


def _file_overrides(key: str, start: str, quote: str) -> list[str]:
    """`key=path` for the files that begin with `start`, as far as Hydra reads the very path.

    quote: the quote of Hydra's that the value begins with, if any. A file closes it; a folder
    leaves it open for what lies in it.
    """
    found = []
    for path in _files(start):
        if _is_read_as(f"{key}={quote}{path}{quote}", path):
            closing = "" if path.endswith("/") else quote
            found.append(f"{key}={quote}{path}{closing}")
    return found


def _is_read_as(word: str, text: str) -> bool:
    """Whether Hydra reads the override, and its value is this text."""
    from ddpmseg.config.overrides import parsed_override

    try:
        override = parsed_override(word)
    except ConfigError:
        return False
    return not override.is_sweep_override() and override.value() == text and "${" not in text


def _files(start: str) -> list[str]:
    folder, slash, name = start.rpartition("/")
    parent = Path(f"{folder}{slash}" or ".").expanduser()
    if not parent.is_dir():
        return []
    entries = sorted(entry for entry in parent.iterdir() if entry.name.startswith(name))
    return [f"{folder}{slash}{entry.name}{'/' * entry.is_dir()}" for entry in entries]
