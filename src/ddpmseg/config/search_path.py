"""Where configuration files are found: the user's own folder `conf`, then the package's."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

log = logging.getLogger(__name__)
OWN = "conf"
"""Folder of the user's own files, in the working directory."""
PACKAGE = Path(__file__).parents[1]


def packaged_folder() -> Path:
    """The package's own configuration: copied into an installed package, else that of the tree."""
    copied = PACKAGE / "conf"
    return copied if copied.is_dir() else PACKAGE.parents[1] / "conf"


class OwnFilesFirst(SearchPathPlugin):
    """Lays the user's own files over those of the package.

    Hydra searches the folder that a command line names (`--config-dir` of the small commands,
    `--config-path`), then `OWN` where there is one, then the package's folder. A file of one of
    these hides a file of the same name in those after it.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = SearchPathQuery(provider="main")
        named = [Path(e.path) for e in search_path.get_path() if e.provider == "main" and e.path]
        if not named:
            return  # nothing is composed from files
        packaged, own = packaged_folder(), Path.cwd() / OWN
        added = own.is_dir() and all(own.resolve() != p.resolve() for p in [packaged, *named])
        if named[0].resolve() == packaged.resolve():
            if added:
                search_path.prepend("own", f"file://{own}", main)
            return
        search_path.append("ddpmseg", f"file://{packaged}", main)
        if added:
            search_path.append("own", f"file://{own}", main)


def hidden_files(root: str, choices: Mapping[str, Any] | None = None) -> list[str]:
    """Files of the package that files of the same name in the user's own folder hide.

    root: name of the root file. choices: those of each config group, as Hydra records them. Only
    files of these are looked for. Returns paths relative to the folders, such as 'train.yaml'.
    """
    own, packaged = Path.cwd() / OWN, packaged_folder()
    if own.resolve() == packaged.resolve():
        return []
    files = [f"{root}.yaml"]
    for group, chosen in (choices or {}).items():
        several = (
            [chosen] if isinstance(chosen, str) or not isinstance(chosen, Iterable) else chosen
        )
        files += [f"{group.partition('@')[0]}/{name}.yaml" for name in several if name]
    return [name for name in files if (own / name).is_file() and (packaged / name).is_file()]


def log_hidden_files(root: str, choices: Mapping[str, Any]) -> None:
    """Say in one log line which files hide those of the package; see `hidden_files`."""
    if hidden := hidden_files(root, choices):
        log.info(
            "settings are read from %s in the working directory, not from the package's files of "
            "the same name",
            ", ".join(f"'{OWN}/{name}'" for name in hidden),
        )
