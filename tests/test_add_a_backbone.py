"""docs/add_a_backbone.md, followed to the letter on images of 16 pixels."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from pages import commands, page
from tiny_run import CONF, HARDWARE, composed

from ddpmseg import backbones
from ddpmseg.__main__ import main
from ddpmseg.backbones.contract import breaches
from ddpmseg.config.store import backbone_schemas, schema_of
from ddpmseg.errors import ConfigError
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

PAGE = page("add_a_backbone")
COMMANDS = commands(PAGE)
SMALL = (*HARDWARE, "dataset.image_size=16", "dataset.num_labelled=3", "dataset.num_test=2")
TRAIN = (*SMALL, "head.members=2", "head.hidden=[8]", "head.max_steps=6")
SWEEP = (
    *SMALL,
    "sweep.head.hidden=[8]",
    "sweep.head.max_steps=6",
    "sweep.clusters.images=0",
    "sweep.controls=[]",
)


def files_of_the_page() -> dict[str, str]:
    """The two files by their place: each follows the heading that names it."""
    found = re.findall(r"^## \d\. .*?`([\w/.]+)`\n+```\w+\n(.*?)```", PAGE, re.M | re.S)
    assert [Path(place).suffix for place, _ in found] == [".py", ".yaml"]
    return dict(found)


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the page, the package's own beside them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONF, "conf")
    for place, text in files_of_the_page().items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(text)
    beside = str(tmp_path / "src" / "ddpmseg" / "backbones")
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, beside])
    yield tmp_path
    sys.modules.pop("ddpmseg.backbones.edges", None)
    ConfigStore.instance().repo["backbone"].pop("edges_schema.yaml", None)


def run(command: str) -> None:
    """What a shell in the current folder would do, in this process and at tiny size."""
    program, *words = shlex.split(command)
    assert program == "ddpmseg"
    folder = [word.split("=", 1)[1] for word in words if word.startswith("paths.output_dir=")]
    match words:
        case ["train", *overrides]:
            train(composed(Path(folder[0]), *overrides, *TRAIN, conf=Path("conf")))
        case ["sweep", *overrides]:
            given = (*overrides, *SWEEP)
            sweep(composed(Path(folder[0]), *given, root="sweep", conf=Path("conf")))
        case arguments:
            assert main([*arguments, "dataset.image_size=16", "trainer.accelerator=cpu"]) == 0


def test_the_page_is_followed(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        run(command)
    assert "edges: layers, in forward order; no timesteps" in capsys.readouterr().out
    assert (added / "outputs" / "edges" / "overlays.png").is_file()
    cells = (added / "outputs" / "edges_sweep" / "cells.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in cells[1:]] == [["0", "-"], ["1", "-"], ["2", "-"]]
    assert (added / "outputs" / "edges_sweep" / "figures" / "miou_over_blocks.png").is_file()


def test_the_example_keeps_the_contract_and_is_checked_as_any_other(added: Path) -> None:
    schema = backbone_schemas()["edges"]
    assert schema_of("ddpmseg.backbones.edges.EdgesBackbone") is schema
    module = sys.modules[schema.__module__]
    assert breaches(module.EdgesBackbone("edges", 16, 8, 0)) == []
    with pytest.raises(Exception, match="chanels"):
        composed(added, "backbone=edges", "backbone.chanels=9", conf=Path("conf"))


def test_every_schema_is_named_after_the_module_of_its_network() -> None:
    schemas = backbone_schemas()
    assert {"guided_diffusion", "pixels", "timm"} <= set(schemas)
    for name, schema in schemas.items():
        assert schema._target_.startswith(f"ddpmseg.backbones.{name}.")


def test_a_module_with_two_schemas_is_refused(added: Path) -> None:
    path = added / "src" / "ddpmseg" / "backbones" / "edges.py"
    text = path.read_text()
    second = text[text.index("@dataclass") : text.index("class EdgesBackbone")]
    path.write_text(text + "\n\n" + second.replace("EdgesConfig", "OtherConfig"))
    with pytest.raises(ConfigError, match="holds two settings of backbones, EdgesConfig and Other"):
        backbone_schemas()


def test_a_target_that_is_no_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"allowed are .*timm"):
        schema_of("ddpmseg.backbones.edges.EdgesBackbone")
