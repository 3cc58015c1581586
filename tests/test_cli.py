"""The small commands: `ddpmseg {blocks,estimate,predict}`."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import CONF, SEGMENT, UNET

from ddpmseg.__main__ import main
from ddpmseg.composition.estimate import other_work

HERE = ("--config-dir", str(CONF))


def test_blocks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", *HERE, "backbone=random"]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "random: decoder blocks, 0 = deepest"
    assert header.split() == ["block", "channels", "size", "layers"]
    table = [row.split() for row in rows]
    assert [int(row[0]) for row in table] == list(range(12))
    assert table[0][1:] == ["128", "8x8", "residual+attention"]
    assert table[11][1:] == ["32", "64x64", "residual"]
    sizes = [int(row[2].split("x")[0]) for row in table]
    assert sizes == sorted(sizes)


def test_blocks_need_a_precision_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", *HERE, "backbone=random", "backbone.precision=8"]) == 2
    said = capsys.readouterr().err
    assert said == "error: `backbone.precision=8`: must be one of auto, 32, bf16, 16.\n"


def test_blocks_need_neither_weights_nor_a_choice_of_blocks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["backbone.checkpoint=/nowhere.pt", "features.blocks=[99]"]
    assert main(["blocks", *HERE, *SEGMENT, *given]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 4


def test_estimate_says_what_a_run_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["estimate", *HERE, *SEGMENT, f"paths.output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    # Two timesteps of block 1 (64 channels) and block 2 (32 channels).
    assert "features: 192 per pixel, blocks [1, 2] of 'random' at t = [5, 50]" in out
    assert "forward passes: 10 (3 training + 2 test images, 2 timesteps each)" in out
    assert re.search(
        r"time: about \d+ s of forward passes on cpu \(\d+ ms an image\), measured", out
    )
    assert "memory: native maps of 3 training images" in out
    assert not list(tmp_path.iterdir())


def test_estimate_says_that_the_machine_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    assert "(load 9.0 on 4 cores): on an idle one it is faster" in other_work()
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 9.0, 9.0))
    assert other_work() == ""


@pytest.mark.parametrize(("suffix", "timesteps"), [("", 3), ("_v1", 4)])
@pytest.mark.parametrize(
    ("dataset", "train", "test"),
    [
        ("bedroom_28", 40, 20),
        ("ffhq_34", 20, 20),
        ("cat_15", 30, 20),
        ("horse_21", 30, 30),
        ("celeba_19", 20, 500),
        ("ade_bedroom_30", 50, 650),
    ],
)
def test_estimate_needs_neither_images_nor_weights(
    dataset: str, train: int, test: int, suffix: str, timesteps: int, capsys
) -> None:
    """Image counts: paper, table 1."""
    small = [*UNET, "dataset.image_size=16", "features.blocks=[1,2]", "backbone.precision='32'"]
    given = [f"experiment=ddpm{suffix}", f"dataset={dataset}", *small, "trainer.accelerator=cpu"]
    given += ["dataset.root=/nowhere", "backbone.checkpoint=/nowhere.pt"]
    assert main(["estimate", *HERE, *given]) == 0
    out = capsys.readouterr().out
    assert out.startswith("published: DDPM on ")
    assert "images: '/nowhere' is not there; as the class table counts" in out
    assert "weights: timed with random ones. checkpoint '/nowhere.pt' does not exist" in out
    passes = f"{(train + test) * timesteps} ({train} training + {test} test images"
    assert f"forward passes: {passes}, {timesteps} timesteps each)" in out


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["features.blok=[3]"], "Key 'blok' not in 'FeaturesConfig'"),
        (["features.timesteps=[1000]"], "timesteps 0..999"),
        (["dataset.image_size=17"], "image_size"),
    ],
)
def test_estimate_refuses_what_train_refuses(
    overrides: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *HERE, *SEGMENT, *overrides]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert says in captured.err
    assert captured.out == ""


def test_folder_without_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["blocks", "--config-dir", str(tmp_path)]) == 0
    assert main(["blocks", "--config-dir", str(tmp_path / "none")]) == 2
    assert "none`: there is no such folder" in capsys.readouterr().err


@pytest.fixture
def run(finished_run: Path) -> Path:
    return finished_run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def predict(run: Path, *photos: Path, out: Path) -> int:
    images = [str(path) for path in photos]
    output = ["--output-dir", str(out), "--accelerator", "cpu"]
    return main(["predict", *images, "--run", str(run), *output])


def test_predict_writes_masks(run: Path, photo: Path, tmp_path: Path) -> None:
    assert predict(run, photo, out=tmp_path / "out") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["photo.npy", "photo.png", "photo_overlay.png"]


def test_predict_names_the_photograph_that_is_wrong(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, tmp_path / "none.png", out=tmp_path / "out") == 2
    assert f"error: image '{tmp_path / 'none.png'}' does not exist." in capsys.readouterr().err
    photo.write_bytes(photo.read_bytes()[:100])
    assert predict(run, photo, out=tmp_path / "out") == 2
    assert f"image '{photo}' cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predict_needs_the_folder_of_a_finished_run(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path / "nowhere", photo, out=tmp_path / "out") == 2
    assert "nowhere' is not the folder of a run" in capsys.readouterr().err
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text((run / "config.yaml").read_text())
    assert predict(tmp_path / "begun", photo, out=tmp_path / "out") == 2
    assert "begun' is unfinished: there is no results.csv" in capsys.readouterr().err


def test_unknown_command_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sing"])
    assert "predict" in capsys.readouterr().err
