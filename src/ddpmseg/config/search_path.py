"""Where configuration files are found: the user's own folder `conf`, then the package's."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

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
