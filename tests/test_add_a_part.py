"""docs/add_a_*.md, followed to the letter on images of 16 pixels."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from pages import commands, page
from tiny_run import CONF, HARDWARE, ROOT, SEGMENT, composed

from ddpmseg.__main__ import main
from ddpmseg.backbones.contract import breaches
from ddpmseg.backbones.registry import BACKBONES
from ddpmseg.data.registry import DATASETS
from ddpmseg.finished.open import open_run
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

ADDED = {"backbone": "edges", "dataset": "discs", "head": "class_means"}
"""By config group: the example of docs/add_a_GROUP.md."""
ROOMS = {"backbone": "backbones", "dataset": "data", "head": "heads"}
"""By config group: the package below `ddpmseg` where such parts lie."""
SMALL = (*HARDWARE, "dataset.image_size=16", "dataset.num_labelled=3", "dataset.num_test=2")
MLP = ("members=2", "hidden=[8]", "max_steps=6")
TRAIN = (*SMALL, *(f"head.{setting}" for setting in MLP))
SWEEP = (*SMALL, "sweep.clusters.images=0", "sweep.controls=[]")


def files_of(group: str) -> dict[str, str]:
    """The files of a page by their path: each follows the heading that names it."""
    found = re.findall(r"^### `([\w/.]+)`\n+```\w+\n(.*?)```", page(f"add_a_{group}"), re.M | re.S)
    return dict(found)


def write_package(group: str, folder: Path) -> Path:
    """The package of section 2a, not installed yet."""
    name = ADDED[group]
    for path, text in files_of(group).items():
        if path.startswith((f"{name}/", "pyproject")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    (folder / name / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of all pages, as pip installs them."""
    folder = tmp_path_factory.mktemp("packages")
    packages = [str(write_package(group, folder / group)) for group in ADDED]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    quiet = ["--disable-pip-version-check", "--root-user-action=ignore"]
    command = [sys.executable, "-m", "pip", "install", *offline, *quiet]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), *packages], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def added(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the programs find these packages."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONF, "conf")
    monkeypatch.syspath_prepend(str(installed))
    yield tmp_path
    for group, name in ADDED.items():
        for module in [key for key in sys.modules if key.split(".")[0] == name]:
            del sys.modules[module]
        for option in (f"{name}.yaml", f"{name}_schema.yaml"):
            ConfigStore.instance().repo[group].pop(option, None)


def run(command: str) -> None:
    """What a shell in the current folder would do, in this process and at tiny size."""
    program, *words = shlex.split(command)
    assert program == "ddpmseg"
    folder = [word.split("=", 1)[1] for word in words if word.startswith("paths.output_dir=")]
    match words:
        case ["train", *overrides]:
            backbone = [] if "backbone=edges" in overrides else SEGMENT[:7]
            small = SMALL if "head=class_means" in overrides else TRAIN
            given = (*backbone, *overrides, *small, "features.blocks=[0,1]")
            train(composed(Path(folder[0]), *given, conf=Path("conf")))
        case ["sweep", *overrides]:
            given = (*overrides, *SWEEP)
            if "head@sweep.head=class_means" in overrides:
                given += (*SEGMENT[:7], "sweep.blocks=[0,2]", "sweep.timesteps=[5,50]")
            else:
                given += tuple(f"sweep.head.{setting}" for setting in MLP[1:])
            sweep(composed(Path(folder[0]), *given, root="sweep", conf=Path("conf")))
        case arguments:
            small = ["dataset.image_size=16", "trainer.accelerator=cpu"]
            end = arguments.index("--output") if "--output" in arguments else len(arguments)
            assert main([*arguments[:end], *small, *arguments[end:]]) == 0


def test_the_page_of_backbones_is_followed(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = commands(page("add_a_backbone"))
    assert len(given) == 4
    for command in given:
        run(command)
    assert "edges: layers, in forward order; no timesteps" in capsys.readouterr().out
    assert (added / "outputs" / "edges" / "overlays.png").is_file()
    cells = (added / "outputs" / "edges_sweep" / "cells.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in cells[1:]] == [["0", "-"], ["1", "-"], ["2", "-"]]
    assert (added / "outputs" / "edges_sweep" / "figures" / "miou_over_blocks.png").is_file()


def test_the_page_of_datasets_is_followed(added: Path) -> None:
    given = commands(page("add_a_dataset"))
    assert len(given) == 2
    for command in given:
        run(command)
    written = added / "outputs" / "discs" / "real" / "train"
    assert len(list(written.glob("*.png"))) == 20
    config = open_run(added / "outputs" / "discs_run").config
    assert type(config.dataset) is DATASETS["discs"]
    assert config.dataset.class_table().names == ("background", "disc")
    assert config.dataset.announced() == (3, 2)


def test_the_page_of_heads_is_followed(added: Path) -> None:
    given = commands(page("add_a_head"))
    assert len(given) == 3
    for command in given:
        run(command)
    outputs = added / "outputs"
    opened = open_run(outputs / "class_means")
    assert (opened.head.label, opened.head.num_classes, opened.head.members) == (
        "class_means",
        11,
        1,
    )
    assert opened.results["head"] == "class_means"
    assert open_run(outputs / "class_means_cosine").head.distance == "cosine"
    cells = (outputs / "class_means_sweep" / "cells.csv").read_text().splitlines()
    assert len(cells) == 5
    assert ">class_means<" in (outputs / "class_means_sweep" / "report.html").read_text()


def test_the_example_keeps_the_contract_and_is_checked_as_any_other(added: Path) -> None:
    schema = BACKBONES["edges"]
    assert BACKBONES.by_target("edges.backbone.EdgesBackbone") is schema
    assert breaches(schema(name="edges", image_size=16).construct()) == []  # pyright: ignore
    with pytest.raises(Exception, match="chanels"):
        composed(added, "backbone=edges", "backbone.chanels=9", conf=Path("conf"))


def test_a_file_may_build_on_the_family_of_a_package(added: Path) -> None:
    path = Path("conf") / "backbone" / "many_edges.yaml"
    path.write_text("defaults: [edges_schema, _self_]\nname: many_edges\nchannels: 16\n")
    backbone = composed(added, "backbone=many_edges", conf=Path("conf")).backbone
    assert (backbone.name, backbone.channels, backbone.image_size) == ("many_edges", 16, 64)


@pytest.mark.slow
def test_installed_packages_are_used_from_the_command_line(installed: Path, tmp_path: Path) -> None:
    given = [f"{group}={name}" for group, name in ADDED.items()]
    features = ("features.blocks=[0,1]", "features.timesteps=[0]")
    command = [sys.executable, str(ROOT / "train.py"), *given, *features, *SMALL]
    paths = [str(installed), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    subprocess.run(
        [*command, f"paths.output_dir={tmp_path / 'run'}"],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert (tmp_path / "run" / "results.csv").is_file()


@pytest.mark.slow
def test_the_same_parts_in_the_tree(tmp_path: Path) -> None:
    """Section 2b of both pages, in a copy of this repository."""
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "train.py", tmp_path)
    for group, name in ADDED.items():
        room = ROOMS[group]
        package = tmp_path / "src" / "ddpmseg" / room / name
        package.mkdir()
        (package / "__init__.py").touch()
        for path, text in files_of(group).items():
            if path.endswith(".py"):
                text = text.replace(f'"{name}.', f'"ddpmseg.{room}.{name}.')
                text = text.replace(f"from {name}.", f"from ddpmseg.{room}.{name}.")
                (package / Path(path).name).write_text(text.replace(f"{name}:classes.yaml", name))
            elif path.endswith("classes.yaml"):
                (package.parent / "classes" / f"{name}.yaml").write_text(text)
            elif path.startswith("conf/"):
                (tmp_path / path).write_text(text)
        line = re.findall(r"^```python\n( {8}\"\w+\": .*,)\n```", page(f"add_a_{group}"), re.M)[0]
        assert ast.literal_eval(f"{{{line}}}").keys() == {name}
        registry = package.parent / "registry.py"
        registry.write_text(registry.read_text().replace("    {\n", f"    {{\n{line}\n", 1))
    given = [f"{group}={name}" for group, name in ADDED.items()]
    features = ("features.blocks=[0,1]", "features.timesteps=[0]")
    subprocess.run(
        [sys.executable, "train.py", *given, *SMALL, *features, "paths.output_dir=run"],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src")},
    )
    assert "edges" in (tmp_path / "run" / "results.csv").read_text()
