"""Terminals that are not in UTF-8: commands show substitutes, and none ends in a traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_annotations import save_labelme

from ddpmseg.__main__ import main

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def shown(status: int, *words: str | Path) -> str:
    """What a command sends to a terminal that knows ASCII only."""
    sent = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONIOENCODING", "")  # which `main` sets for other processes
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, io.TextIOWrapper(sent, "ascii", write_through=True))
        assert main([str(word) for word in words]) == status
        return sent.getvalue().decode("ascii")


def save_horses(root: Path) -> list[str]:
    """A set whose classes and files have names beyond ASCII, and the settings that name it."""
    for split in ("train", "test"):
        folder = root / "real" / split
        folder.mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            pixels[0] = len(split)  # no image is in both splits
            Image.fromarray(pixels).save(folder / f"马{index}.png")
            np.save(folder / f"马{index}.npy", np.full((16, 16), index, np.uint8))
    (root / "classes.yaml").write_text(
        "name: 马\nignore_label: 255\nclasses: [{name: 'Hintergründe'}, {name: 马}]\n",
        encoding="utf-8",
    )
    return [f"dataset.root={root}", f"dataset.classes={root / 'classes.yaml'}"]


@pytest.mark.parametrize("command", [["table", "--by", "head.members"], ["compare"]])
def test_tables_have_substitutes(members_by_seeds: Path, command: list[str]) -> None:
    assert " +- " in shown(0, *command, members_by_seeds)


def test_data_check_has_substitutes(tmp_path: Path) -> None:
    assert "Hintergr?nde" in shown(0, "data", "check", "folder", *save_horses(tmp_path))


def test_data_convert_has_substitutes(tmp_path: Path) -> None:
    folder = save_labelme(tmp_path / "in")
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace("body", "马"), encoding="utf-8")
    out = tmp_path / "out…"
    assert "out...: use it with" in shown(0, "data", "convert", folder, out)
    assert 'name: "马"' in (out / "classes.yaml").read_text(encoding="utf-8")


def test_messages_have_substitutes(tmp_path: Path) -> None:
    given = [f"dataset.root='{tmp_path}/Kühe'", "dataset.classes=ponies"]
    assert "K?he`: no such folder" in shown(2, "data", "check", "folder", *given)


def test_names_that_no_encoding_has_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file name in Latin-1 on a system in UTF-8."""
    name = os.fsdecode(b"K\xfche")
    assert main(["data", "convert", str(tmp_path / name), str(tmp_path / "out")]) == 2
    assert "K?he' does not exist" in capsys.readouterr().err


def test_processes_in_another_locale_have_substitutes(members_by_seeds: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ddpmseg", "table", str(members_by_seeds)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONIOENCODING"} | ASCII,
        capture_output=True,
        check=True,
    )
    assert (b" +- " in done.stdout, done.stderr) == (True, b"")
