"""Families of parts by name: those of the package, and those of installed packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddpmseg.backbones.registry import BACKBONES
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.config import register
from ddpmseg.data.registry import DATASETS
from ddpmseg.errors import ConfigError
from ddpmseg.registry import Registry

GOOD = """
from dataclasses import dataclass
from ddpmseg.backbones.settings import BackboneConfig

@dataclass
class Good(BackboneConfig):
    _target_: str = "a_package.Network"

@dataclass
class Untargeted(BackboneConfig):
    depth: int = 1

class Undecorated(Good):
    _target_: str = "a_package.Network"

number = 1
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with a module `a_package_settings`."""
    (tmp_path / "a_package_settings.py").write_text(GOOD)
    (tmp_path / "broken_settings.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_package_settings", raising=False)
    return tmp_path


def install(site: Path, package: str, name: str, value: str, group: str = "backbones") -> None:
    """What pip leaves of a package with one entry point."""
    folder = site / f"{package}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[ddpmseg.{group}]\n{name} = {value}\n")


def fresh() -> Registry[BackboneConfig]:
    """A registry of one family, which finds packages as any other."""
    own = {"pixels": "ddpmseg.backbones.pixels.settings:PixelsConfig"}
    return Registry("backbone", BackboneConfig, own)


def found(site: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[BackboneConfig]:
    # Metadata is read once for each search path.
    monkeypatch.syspath_prepend(str(site / "again"))
    return fresh()


def test_a_family_of_an_installed_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "a-package", "good", "a_package_settings:Good")
    registry = found(site, monkeypatch)
    assert registry.names() == ("pixels", "good")
    assert registry["good"] is registry.by_target("a_package.Network")
    assert registry.schemas().keys() == {"pixels", "good"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("pixels", "a_package_settings:Good", "but ddpmseg has one of this name"),
        ("my net", "a_package_settings:Good", "letters, digits and underscores"),
        ("net", "nowhere:Good", r"cannot be imported \(ModuleNotFoundError"),
        ("net", "broken_settings:Good", r"cannot be imported \(ZeroDivisionError"),
        ("net", "a_package_settings:Other", r"cannot be imported \(AttributeError"),
        ("net", "a_package_settings:number", "no dataclass derived from ddpmseg.backbones"),
        ("net", "a_package_settings:Undecorated", "no dataclass derived from"),
        ("net", "a_package_settings:Untargeted", "no `_target_` of its own"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    name: str, value: str, says: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "a-package", name, value)
    with pytest.raises(ConfigError, match=says) as caught:
        found(site, monkeypatch).schemas()
    assert "package 'a-package' adds the backbone" in str(caught.value)
    with pytest.raises(ConfigError, match="'a-package'"):
        register()


def test_two_packages_with_one_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("a-package", "b-package"):
        install(site, package, "good", "a_package_settings:Good")
    with pytest.raises(ConfigError, match=r"-package has one of this name.*uninstall one"):
        found(site, monkeypatch).names()


def test_a_family_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"no backbone family 'zebra'; there are guided_diff"):
        _ = BACKBONES["zebra"]
    with pytest.raises(ConfigError, match=r"_target_=zebra.Net` is unknown; allowed are .*Timm"):
        BACKBONES.by_target("zebra.Net")


def test_every_family_has_its_name_and_target() -> None:
    for registry, room in ((BACKBONES, "backbones"), (DATASETS, "data")):
        for name, schema in registry.schemas().items():
            assert registry.by_target(schema._target_) is schema, name
            assert schema._target_.startswith(f"ddpmseg.{room}."), name


def test_no_settings_need_torch() -> None:
    """Or completing a command line on the shell would take seconds."""
    code = (
        "import sys; from ddpmseg.config import register; register(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
