"""`train` and `sweep`: Hydra composes a configuration from overrides, a task runs with it."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from ddpmseg.cli import completion
from ddpmseg.cli.common import add_command, path, show
from ddpmseg.errors import ConfigError

TEXTS = {
    "train": "train a head on a few labelled images and test it, or pretrain a diffusion model",
    "sweep": "probe a backbone at every (block, timestep) and report what it knows where",
}
"""By the name of the program."""
WHOLE = "HYDRA_FULL_ERROR"
"""Environment variable that makes Hydra raise an error, and not print it."""


def add(commands: Any) -> None:
    for name, text in TEXTS.items():
        command = add_command(commands, name, partial(_run, name), text, add_help=False)
        completion.add_settings(
            command, name, "overrides", "settings, as in group=choice and group.key=value"
        )
        _add_flags(command)


def _add_flags(command: argparse.ArgumentParser) -> None:
    """Let the command take the flags of a Hydra program."""
    option, flag = command.add_argument, partial(command.add_argument, action="store_true")
    flag("--help", "-h", help="examples, groups of settings and their choices")
    flag("--multirun", "-m", help="a job for every combination of comma-separated values")
    flag("--run", "-r", help="a single run, the default")
    kinds = ["job", "hydra", "all"]
    option("--cfg", "-c", choices=kinds, help="print the settings and run nothing")
    flag("--resolve", help="with --cfg: every setting with its value")
    option("--package", "-p", help="with --cfg: only this group")
    text = "a folder of files that are added to the others"
    option("--config-dir", "-cd", type=path, help=text)
    text = "a folder of files that hide those of the same name"
    option("--config-path", "-cp", type=path, help=text)
    option("--config-name", "-cn", help="a root other than train.yaml, sweep.yaml")
    flag("--shell-completion", "-sc", help="completion with TAB: install=bash, zsh or fish")
    kinds = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    text = "what Hydra composes, and from which files"
    option("--info", "-i", nargs="?", const="all", choices=kinds, help=text)
    flag("--hydra-help", help="Hydra's own help")


def _run(name: str, **options: Any) -> int:
    """Run the program `name` with what its command was given."""
    if options["shell_completion"]:
        return show([completion.shell_code(options["overrides"])])
    if options["help"]:
        from ddpmseg.cli.help import program_help

        return show([program_help(name, options["config_path"])])

    from ddpmseg.config.groups import groups_of
    from ddpmseg.config.overrides import check_overrides

    if options["config_path"] is not None:
        options["config_path"] = options["config_path"].absolute()
    for option in ("config_path", "config_dir"):
        if options[option] is not None and not options[option].is_dir():
            name_shown = f"--{option.replace('_', '-')} {options[option]}"
            raise ConfigError(f"`{name_shown}`: there is no such folder.")
    with groups_of(name, options["config_path"]) as groups:
        check_overrides(options["overrides"], groups.choices, options["multirun"])
    _run_program(name, **options)
    return 0


def _run_program(name: str, config_path: Path | None, **options: Any) -> None:
    """Let Hydra compose and run. Raises ConfigError for what it cannot compose."""
    from hydra import version
    from hydra._internal.utils import _run_hydra, get_args_parser
    from omegaconf.errors import OmegaConfBaseException

    from ddpmseg.cli import tasks
    from ddpmseg.config.overrides import COMPOSING, raised_in
    from ddpmseg.config.search_path import packaged_folder

    version.setbase("1.3")
    # Hydra would print an error itself, with its traceback, and end with status 1.
    whole = os.environ.get(WHOLE)
    os.environ[WHOLE] = "1"
    root = None if config_path is None else str(config_path)
    try:
        # As `hydra.main` does with a command line, but for one that begins with the program's name.
        _run_hydra(
            args=argparse.Namespace(config_path=root, **options),
            args_parser=get_args_parser(),
            task_function=getattr(tasks, name),
            config_path=str(packaged_folder()),
            config_name=name,
        )
    except (*COMPOSING, OSError) as error:
        in_program = raised_in(error, str(tasks.__file__))
        if whole or (in_program and not isinstance(error, OmegaConfBaseException)):
            raise
        raise _explained(error, name) from error
    finally:
        if whole is None:
            del os.environ[WHOLE]


def _explained(error: Exception, name: str) -> ConfigError:
    """The sentence about an error of `COMPOSING`, and the root file that may have caused it."""
    from ddpmseg.config.overrides import composition_error
    from ddpmseg.config.search_path import OWN, hidden_files

    sentence = composition_error(error)
    if not hidden_files(name):
        return sentence
    return ConfigError(
        f"{sentence} Settings were read from '{OWN}/{name}.yaml' in the working directory, not "
        "from the package's file of the same name."
    )
