"""The package as a wheel: installed without the tree, it works in any folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import CONF, ROOT, SEGMENT

INPUTS = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src", "conf")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of the package installs; its path has a space."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "tree").mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in INPUTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "tree" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "tree" / name)
    site = folder / "site packages"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "tree")
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("ddpmseg-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


def run(installed: Path, folder: Path, *arguments: str) -> str:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ddpmseg", *arguments],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_an_installed_package_holds_its_configuration(installed: Path) -> None:
    def files(conf: Path) -> list[Path]:
        return sorted(path.relative_to(conf) for path in conf.rglob("*.yaml"))

    assert files(installed / "ddpmseg" / "conf") == files(CONF)


@pytest.mark.slow
def test_an_installed_package_works_in_a_folder_of_its_own(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my work"
    paths = run(installed, folder, "train", "--info", "searchpath")
    assert f"file://{installed / 'ddpmseg' / 'conf'}" in paths
    run(installed, folder, "train", *SEGMENT, "paths.output_dir=run")
    assert (folder / "run" / "results.csv").is_file()


@pytest.mark.slow
def test_own_files_add_choices_and_hide_those_of_the_package(
    installed: Path, tmp_path: Path
) -> None:
    own = tmp_path / "conf" / "dataset"
    own.mkdir(parents=True)
    text = "defaults: [ponies_schema, _self_]\nname: {}\nclasses: ponies\nnum_test: 7\n"
    (own / "my_ponies.yaml").write_text(text.format("my_ponies"))
    (own / "ponies.yaml").write_text(text.format("hidden"))
    shown = run(installed, tmp_path, "train", "--cfg", "job", "dataset=my_ponies")
    assert "name: my_ponies" in shown
    assert "name: hidden" in run(installed, tmp_path, "sweep", "--cfg", "job")
    assert "num_test: 200" in run(installed, tmp_path / "elsewhere", "train", "--cfg", "job")
