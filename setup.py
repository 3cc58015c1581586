"""Copy the configuration files of conf/ into the package that is built.

An editable install has no copy: it finds those of the tree.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONF = "conf"


class BuildWithConf(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(CONF, Path(self.build_lib) / "ddpmseg" / CONF, dirs_exist_ok=True)

    def get_source_files(self) -> list[str]:
        """These too go into a source distribution."""
        return [*super().get_source_files(), *map(str, Path(CONF).rglob("*.yaml"))]


setup(cmdclass={"build_py": BuildWithConf})
