"""`ddpmseg data write`: a set as a folder that reads back as the same pixels."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import CONF, composed, contents

from ddpmseg.__main__ import main
from ddpmseg.composition import checks
from ddpmseg.data.labelled import LabelledFolder, Ponies
from ddpmseg.data.survey import survey
from ddpmseg.data_tools import write

SMALL = ("dataset.num_labelled=3", "dataset.num_test=2", "dataset.image_size=32")


def written(output: Path, *overrides: str, name: str = "ponies", conf: Path = CONF) -> int:
    options = ["--output", str(output), "--config-dir", str(conf)]
    return main(["data", "write", name, *SMALL, *overrides, *options])


def read(folder: Path, **settings: Any) -> LabelledFolder:
    return LabelledFolder("mine", str(folder / "classes.yaml"), str(folder), **settings)


@pytest.mark.parametrize("rule", ["scaled", "reference", "keep"])
def test_what_was_written_reads_as_what_was_drawn(rule: str, tmp_path: Path) -> None:
    """Under whichever rule it is read: at 32 pixels 'reference' alone leaves some parts out."""
    assert written(tmp_path / "ponies", "dataset.tiny_annotations=reference") == 0
    drawn = Ponies("ponies", "ponies", 32, num_labelled=3, num_test=2, tiny_annotations=rule)
    found = read(tmp_path / "ponies", image_size=32, tiny_annotations=rule)
    assert survey(found).sha256 == survey(drawn).sha256
    for split in ("train", "test"):
        ours, theirs = getattr(found, split), getattr(drawn, split)
        assert ours.names == theirs.names
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.mask, other.mask)
    assert found.classes.names == drawn.classes.names
    assert (found.classes.palette == drawn.classes.palette).all()
    assert found.classes.ignore_label == drawn.classes.ignore_label


def test_a_folder_is_written_as_a_folder(tmp_path: Path) -> None:
    """And at another size, as it is seen at that size."""
    assert written(tmp_path / "one") == 0
    given = [f"dataset.root={tmp_path / 'one'}", f"dataset.classes={tmp_path}/one/classes.yaml"]
    assert written(tmp_path / "two", *given, name="folder") == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert written(tmp_path / "three", *given, "dataset.image_size=16", name="folder") == 0
    small = read(tmp_path / "one", image_size=16)
    assert survey(read(tmp_path / "three", image_size=16)).sha256 == survey(small).sha256


def test_it_becomes_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf").mkdir()
    for entry in CONF.iterdir():
        if entry.name != "dataset":
            (tmp_path / "conf" / entry.name).symlink_to(entry)
    (tmp_path / "conf" / "dataset").mkdir()
    for entry in (CONF / "dataset").iterdir():
        (tmp_path / "conf" / "dataset" / entry.name).symlink_to(entry)
    conf, place = tmp_path / "conf", tmp_path / "conf" / "dataset" / "my_ponies.yaml"
    assert written(tmp_path / "ponies", "--config", str(place), conf=conf) == 0
    assert "or with `dataset=my_ponies`" in capsys.readouterr().out
    config = checks.typed_config(composed(tmp_path / "run", "dataset=my_ponies", conf=conf))
    assert config.dataset.name == "my_ponies"
    assert config.dataset.image_size == 32
    assert len(config.dataset.build().train) == 3
    assert written(tmp_path / "again", "--config", str(place), conf=conf) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["Ponys_für_Ötzi", "null", "true"])
def test_a_printed_choice_can_be_pasted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    config = conf / "dataset" / f"{name}.yaml"
    assert written(tmp_path / "ponies", "--config", str(config), conf=conf) == 0
    printed = re.findall("or with `(.*)`", capsys.readouterr().out)[0]
    (override,) = shlex.split(printed)
    read = checks.typed_config(composed(tmp_path / "run", override, conf=conf))
    assert read.dataset.name == name
    assert main(["data", "check", name, "--config-dir", str(conf)]) == 0


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ponies").mkdir()
    (tmp_path / "ponies" / "mine.txt").write_text("mine")
    assert written(tmp_path / "ponies") == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert contents(tmp_path / "ponies") == {"mine.txt": b"mine"}


def test_what_is_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_set", full)
    assert written(tmp_path / "ponies") == 2
    assert "cannot be written to (No space left on device). Make room" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_set_that_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["dataset.root=/nowhere", "dataset.classes=ponies"]
    assert written(tmp_path / "out", *given, name="folder") == 2
    assert "there is no folder '/nowhere/real/train' of images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
