"""The programs with the paper's baselines of GANs: runs, sweeps, tables, descriptions."""

import csv
import re
from pathlib import Path

import pytest
from golden_gan import TINY, save_e4e, tiny_state
from tiny_run import CONF, HARDWARE, blocks_done, composed

from ddpmseg.__main__ import main
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.records.published import load_published
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

IMAGES = ("dataset.image_size=8", "dataset.num_labelled=2", "dataset.num_test=2")
HEAD = ("hidden=[8]", "max_steps=3", "batch_size=64")
TRAIN = (*IMAGES, *(f"head.{setting}" for setting in HEAD), "head.members=2", *HARDWARE)
SWEEP = (*IMAGES, *(f"sweep.head.{setting}" for setting in HEAD), *HARDWARE)
HERE = ("--config-dir", str(CONF))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_e4e(tmp_path_factory.mktemp("e4e") / "e4e.pt", tiny_state())


def overrides(path: Path | str, size: bool = True) -> list[str]:
    sizes = [f"backbone.{key}={value}" for key, value in TINY.items() if size or key != "size"]
    given = [f"backbone.checkpoint={path}", "backbone.sha256=null", "backbone.precision='32'"]
    return [*given, *sizes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    """A finished run of each."""
    folder = tmp_path_factory.mktemp("runs")
    inversion = [*overrides(file), "features.blocks=[1,2,3,4,5]"]
    train(composed(folder / "i", "backbone=gan_inversion_ffhq", *inversion, *TRAIN))
    encoder = overrides(file, size=False)
    train(composed(folder / "e", "backbone=gan_encoder_lsun_horse", *encoder, *TRAIN))
    return folder


def row_of(folder: Path) -> dict[str, str]:
    with (folder / "results.csv").open() as file:
        return next(csv.DictReader(file))


def test_runs_leave_their_features_and_their_weights_digest(runs: Path) -> None:
    inversion, encoder = row_of(runs / "i"), row_of(runs / "e")
    assert (inversion["backbone"], inversion["blocks"]) == ("gan_inversion_ffhq", "1 2 3 4 5")
    assert encoder["blocks"] == " ".join(map(str, range(24)))
    assert inversion["checkpoint_sha256"] == encoder["checkpoint_sha256"] != ""
    for row in (inversion, encoder):
        assert row["timesteps"] == "-"
        assert 0 <= float(row["miou"]) <= 1


def test_runs_stand_beside_the_published_numbers(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, left_out = read_runs([runs], load_published())
    assert not left_out
    assert sorted(run.settings["method"] for run in found) == ["GAN Encoder", "GAN Inversion"]
    assert main(["table", str(runs)]) == 0
    table = capsys.readouterr().out
    for method, published in (("GAN Inversion", "51.7 ± 0.8"), ("GAN Encoder", "26.7 ± 0.7")):
        assert re.search(rf"\| *{method}\b.*{published}", table)


def test_a_sweep_goes_over_the_layers(file: Path, tmp_path: Path) -> None:
    given = [*overrides(file), *SWEEP, "sweep.blocks=[0,2,5]"]
    sweep(composed(tmp_path, "backbone=gan_inversion", *given, root="sweep"), True)
    assert blocks_done(tmp_path, "random", "pixels") == [[0, 2, 5], [0, 2, 5], [0]]


def test_blocks_are_listed_at_the_size_of_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["backbone=gan_inversion_ffhq", "dataset.image_size=256"]
    assert main(["blocks", *HERE, *given]) == 0
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "gan_inversion_ffhq: generator layers, in forward order; no timesteps"
    assert rows[0].split() == ["0", "512", "4x4", "constant"]
    assert rows[13].split() == ["13", "128", "256x256", "convs[11]"]
    assert rows[17].split() == ["17", "32", "256x256", "convs[15]"]


def test_a_run_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(composed(tmp_path, "backbone=gan_encoder_ffhq", *TRAIN))
    message = str(caught.value)
    assert "checkpoint 'checkpoints/e4e_ffhq.pt' does not exist" in message
    assert "`ddpmseg weights get gan_encoder_ffhq` fetches it" in message


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["features.blocks=[18]"], r"block 18 does not .* \(generator layers 0\.\.17, in forward"),
        (["features.hook=input"], "read at their output only"),
        (["backbone.size=100"], "must be a power of two"),
        (["backbone.precision=8"], "`backbone.precision=8`: must be one of auto, 32, bf16, 16"),
        (["task=pretrain"], "cannot be pretrained"),
    ],
)
def test_impossible_settings_are_told_before_weights_are_read(
    given: list[str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        train(composed(tmp_path, "backbone=gan_inversion_ffhq", *TRAIN, *given))


def test_a_file_is_described(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "describe", str(file)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    kind = "an encoder of e4e with its generator"
    assert re.fullmatch(rf"{file}: {kind}, [\d,]+ parameters that are read", title)
    assert {"  size: 16", "  channels: 16"} <= set(lines)
    assert lines[-1] == (
        f"use it with `backbone=gan_inversion backbone.checkpoint={file} backbone.size=16 "
        "backbone.channels=16`"
    )
