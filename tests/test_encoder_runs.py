"""The programs with the encoders of SwAV and MAE: runs, sweeps, tables, descriptions."""

import csv
import logging
import re
from pathlib import Path

import pytest
import torch
from golden_encoders import LAYERS, resnet_state, save_mae, save_swav
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_run import CONF, HARDWARE, blocks_done, composed

from ddpmseg import config as schemas
from ddpmseg.__main__ import main
from ddpmseg.backbones.mae.backbone import MaeBackbone
from ddpmseg.backbones.mae.settings import MaeConfig
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.records.published import load_published
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

IMAGES = ("dataset.image_size=32", "dataset.num_labelled=2", "dataset.num_test=2")
HEAD = ("hidden=[8]", "max_steps=3", "batch_size=64")
TRAIN = (*IMAGES, *(f"head.{setting}" for setting in HEAD), "head.members=2", *HARDWARE)
SWEEP = (*IMAGES, *(f"sweep.head.{setting}" for setting in HEAD), *HARDWARE)
MAE = {"image_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 24, "num_heads": 2}
HERE = ("--config-dir", str(CONF))


@pytest.fixture(scope="module")
def swav_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_swav(tmp_path_factory.mktemp("swav") / "w.pth", resnet_state(2, LAYERS, 1))


@pytest.fixture(scope="module")
def mae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = MaeBackbone("mae", mlp_ratio=4.0, checkpoint="random", **MAE).network  # pyright: ignore
    state = network.state_dict() | {"mask_token": torch.ones(1, 1, 8)}
    return save_mae(tmp_path_factory.mktemp("mae") / "w.pth", state)


def swav_overrides(path: Path) -> list[str]:
    return [f"backbone.checkpoint={path}", "backbone.channels=2", "backbone.precision='32'"]


def mae_overrides(path: Path) -> list[str]:
    sizes = [f"backbone.{key}={value}" for key, value in MAE.items()]
    return [f"backbone.checkpoint={path}", "backbone.precision='32'", *sizes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, swav_file: Path, mae_file: Path) -> Path:
    """A finished run of each family, with the features the family has by default."""
    folder = tmp_path_factory.mktemp("runs")
    for name, given in (("swav_w2_ffhq", swav_overrides(swav_file)),
                        ("swav_lsun_cat", swav_overrides(swav_file)),
                        ("mae_ffhq", mae_overrides(mae_file))):  # fmt: skip
        train(composed(folder / name, f"backbone={name}", *given, *TRAIN))
    return folder


def test_runs_leave_their_features_and_their_weights_digest(runs: Path, swav_file: Path) -> None:
    with (runs / "swav_lsun_cat" / "results.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["backbone"] == "swav_lsun_cat"
    assert row["blocks"] == "0 2 3 5 7 9 11 13 15"
    assert row["timesteps"] == "-"
    assert len(row["checkpoint_sha256"]) == 64
    assert 0 <= float(row["miou"]) <= 1
    with (runs / "mae_ffhq" / "results.csv").open() as file:
        assert next(csv.DictReader(file))["blocks"] == " ".join(map(str, range(12, 24)))


def test_runs_stand_beside_the_published_numbers(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, left_out = read_runs([runs], load_published())
    assert not left_out
    assert sorted(run.settings["method"] for run in found) == ["MAE", "SwAV", "SwAVw2"]
    assert main(["table", str(runs)]) == 0
    table = capsys.readouterr().out
    for method, published in (("SwAV", "51.7 ± 0.5"), ("SwAVw2", "54.0 ± 0.9"), ("MAE", "63.4")):
        assert re.search(rf"\| *{method}\b.*{published}", table)


def test_maps_are_kept_for_runs_with_another_seed(
    swav_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No noise is in them, whatever it is drawn from."""
    caplog.set_level(logging.INFO)
    for seed, noise in ((0, "shared"), (1, "shared"), (1, "fresh")):
        keep = [f"paths.cache_dir={tmp_path}/cache", "features.cache_gb=1", f"seed={seed}"]
        given = [*swav_overrides(swav_file), *TRAIN, *keep, f"features.noise={noise}"]
        train(composed(tmp_path / f"{seed}{noise}", "backbone=swav_lsun_cat", *given))
    read = [message for message in caplog.messages if "pairs read from" in message]
    assert [message.split(" (image")[0] for message in read] == [
        "cache: 0 of 4",
        "cache: 4 of 4",
        "cache: 4 of 4",
    ]


def test_a_sweep_has_one_timestep_and_an_untrained_control(swav_file: Path, tmp_path: Path) -> None:
    given = [*swav_overrides(swav_file), *SWEEP, "sweep.blocks=[0,13]"]
    sweep(composed(tmp_path, "backbone=swav_lsun_cat", *given, root="sweep"), True)
    assert blocks_done(tmp_path, "random", "pixels") == [[0, 13], [0, 13], [0]]


def test_blocks_are_listed_at_the_hook(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["backbone=swav_w2_ffhq", "dataset.image_size=256"]
    assert main(["blocks", *HERE, *given]) == 0
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "swav_w2_ffhq: encoder blocks, in forward order (inputs); no timesteps"
    assert rows[0].split() == ["0", "128", "64x64", "layer1[0]"]
    assert rows[15].split() == ["15", "4096", "8x8", "layer4[2]"]


@pytest.mark.parametrize(
    ("method", "dataset", "side", "dim", "counts"),
    [
        ("swav", "horse_21", 64, 6720, "30 training + 30"),
        ("mae", "celeba_19", 16, 96, "20 training + 5"),
    ],
)
def test_estimate_needs_neither_images_nor_weights(
    method: str, dataset: str, side: int, dim: int, counts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [f"dataset.image_size={side}", "trainer.accelerator=cpu", "backbone.precision='32'"]
    if method == "mae":
        small += mae_overrides(Path("x"))  # the paper's would take seconds to draw
    given = [f"experiment={method}", f"dataset={dataset}", *small, "dataset.root=/nowhere"]
    given += ["backbone.checkpoint=/nowhere.pth"]
    assert main(["estimate", *HERE, *given]) == 0
    out = capsys.readouterr().out
    assert f"features: {dim} per pixel" in out
    assert f"({counts}" in out
    assert "test images, one each)" in out


def test_a_run_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(composed(tmp_path, "backbone=mae_lsun_horse", *TRAIN))
    message = str(caught.value)
    assert "checkpoint 'checkpoints/mae_lsun_horse.pth' does not exist" in message
    assert "`ddpmseg weights get mae_lsun_horse` fetches it" in message


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ["features.blocks=[16]"],
            r"block 16 does not .* \(encoder blocks 0\.\.15, in forward",
        ),
        (["dataset.image_size=40"], "needs images whose side is divisible by 32"),
        (["backbone.precision=8"], "`backbone.precision=8`: must be one of auto, 32, bf16, 16"),
        (["backbone.channels=0"], "a ResNet needs channels"),
        (["task=pretrain"], "cannot be pretrained"),
    ],
)
def test_impossible_settings_are_told_before_weights_are_read(
    given: list[str], says: str, swav_file: Path, tmp_path: Path
) -> None:
    overrides = [*swav_overrides(swav_file), *TRAIN, *given]
    with pytest.raises(ConfigError, match=says):
        train(composed(tmp_path, "backbone=swav", *overrides))


def test_files_are_described(
    swav_file: Path, mae_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "describe", str(swav_file)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{swav_file}: a ResNet, [\d,]+ parameters that are read", title)
    assert "  channels: 2" in lines
    assert "  stages: [3, 4, 6, 3]" in lines
    assert lines[-1] == (
        f"use it with `backbone=swav backbone.checkpoint={swav_file} backbone.channels=2 "
        "'backbone.stages=[3,4,6,3]'`"
    )
    assert main(["weights", "describe", str(mae_file), "--num-heads", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  image_size: 32" in lines
    assert lines[-2] == "  num_heads: 2"


def test_a_described_file_becomes_a_backbone(mae_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "conf" / "backbone" / "my_mae.yaml"
    given = ["weights", "describe", str(mae_file), "--num-heads", "2", "--output", str(output)]
    assert main(given) == 0
    schemas.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        search = f"hydra.searchpath=[file://{output.parents[1]}]"
        group = compose("train", ["backbone=my_mae", search]).backbone
    typed = OmegaConf.to_object(group)
    assert isinstance(typed, MaeConfig)
    assert (typed.name, typed.checkpoint) == ("my_mae", str(mae_file))
    assert {key: getattr(typed, key) for key in MAE} == MAE
