"""The programs with the encoder of ALAE: runs, sweeps, tables, descriptions."""

import csv
import re
from pathlib import Path

import pytest
from golden_alae import alae_state, save_alae
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_run import CONF, HARDWARE, blocks_done, composed, layout_of

from ddpmseg import config as schemas
from ddpmseg.__main__ import main
from ddpmseg.backbones.alae.settings import AlaeConfig
from ddpmseg.config import TrainConfig
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.records.published import load_published
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

IMAGES = ("dataset.image_size=32", "dataset.num_labelled=2", "dataset.num_test=2")
HEAD = ("hidden=[8]", "max_steps=3", "batch_size=64")
TRAIN = (*IMAGES, *(f"head.{setting}" for setting in HEAD), "head.members=2", *HARDWARE)
SWEEP = (*IMAGES, *(f"sweep.head.{setting}" for setting in HEAD), *HARDWARE)
SIZES = {"levels": 5, "channels": 2, "max_channels": 4, "latent_size": 3}
"""For images of 64 pixels; those of 32 enter at the second level."""
HERE = ("--config-dir", str(CONF))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_alae(tmp_path_factory.mktemp("alae") / "model_final.pth", alae_state(SIZES, 1))


def overrides(path: Path | str) -> list[str]:
    sizes = [f"backbone.{key}={value}" for key, value in SIZES.items()]
    return [f"backbone.checkpoint={path}", "backbone.precision='32'", *sizes]


def typed(tmp_path: Path, *given: str) -> TrainConfig:
    config = OmegaConf.to_object(composed(tmp_path, *given))
    assert isinstance(config, TrainConfig)
    return config


def test_a_run_reads_all_layers_and_stands_beside_the_published_numbers(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(composed(tmp_path / "run", "backbone=alae_ffhq", *overrides(file), *TRAIN))
    with (tmp_path / "run" / "results.csv").open() as results:
        row = next(csv.DictReader(results))
    assert (row["backbone"], row["timesteps"]) == ("alae_ffhq", "-")
    assert row["blocks"] == " ".join(map(str, range(8)))
    assert len(row["checkpoint_sha256"]) == 64
    assert 0 <= float(row["miou"]) <= 1
    found, left_out = read_runs([tmp_path], load_published())
    assert not left_out
    assert [run.settings["method"] for run in found] == ["ALAE"]
    assert main(["table", str(tmp_path)]) == 0
    assert re.search(r"\| *ALAE\b.*20\.0 ± 1\.0.*48\.1 ± 1\.3", capsys.readouterr().out)


def test_a_sweep_goes_over_the_layers_and_an_untrained_control(file: Path, tmp_path: Path) -> None:
    given = [*overrides(file), *SWEEP]
    sweep(composed(tmp_path, "backbone=alae_lsun_bedroom", *given, root="sweep"), True)
    assert blocks_done(tmp_path, "random", "pixels") == [[*range(8)], [*range(8)], [0]]


@pytest.mark.parametrize(
    ("name", "side", "dim"),
    [
        ("alae", 256, 4512),
        ("alae_lsun_bedroom", 256, 4512),
        ("alae_lsun_bedroom", 128, 4416),
        ("alae_ffhq", 256, 5440),
        ("alae_ffhq", 1024, 5584),
    ],
)
def test_all_layers_have_these_dimensions(name: str, side: int, dim: int, tmp_path: Path) -> None:
    given = (f"backbone={name}", "backbone.checkpoint=random", f"dataset.image_size={side}")
    assert layout_of(typed(tmp_path, *given)).dim == dim


def test_images_can_be_enlarged_to_the_networks_own_size(tmp_path: Path) -> None:
    large = ("backbone=alae_ffhq", "dataset.image_size=256", "backbone.input_size=1024")
    layout = layout_of(typed(tmp_path, *large))
    assert (len(layout.maps), layout.dim, layout.maps[0].size) == (18, 5584, 256)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ["features.blocks=[8]"],
            r"block 8 does not .* \(encoder layers 0\.\.7, in forward order\)",
        ),
        (
            ["dataset.image_size=72"],
            "images of 72 pixels are larger than the network, which takes 64",
        ),
        (["backbone.input_size=48"], r"`backbone\.input_size=48`: a network of 5 levels takes"),
        (["backbone.levels=0", "features.blocks=[0]"], "`backbone.levels=0`: must be above 0"),
        (["task=pretrain"], "cannot be pretrained"),
    ],
)
def test_impossible_settings_are_told_before_weights_are_read(
    given: list[str], says: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        train(composed(tmp_path, "backbone=alae", *overrides(file), *TRAIN, *given))


def test_a_run_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(composed(tmp_path, "backbone=alae_lsun_bedroom", *TRAIN))
    message = str(caught.value)
    assert "checkpoint 'checkpoints/alae_lsun_bedroom.pth' does not exist" in message
    assert "`ddpmseg weights get alae_lsun_bedroom` fetches it" in message


def test_layers_are_listed_from_where_images_enter(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["backbone=alae_ffhq", "backbone.checkpoint=random", "dataset.image_size=256"]
    assert main(["blocks", *HERE, *given]) == 0
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "alae_ffhq: encoder layers, in forward order; no timesteps"
    assert rows[0].split() == ["0", "64", "256x256", "encode_block[2].instance_norm_1"]
    assert rows[13].split() == ["13", "512", "2x2", "encode_block[8].instance_norm_2"]


def test_a_described_file_becomes_a_backbone(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "conf" / "backbone" / "my_alae.yaml"
    assert main(["weights", "describe", str(file)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{file}: the encoder of an ALAE, [\d,]+ parameters that are read", title)
    assert lines[-1] == (
        f"use it with `backbone=alae backbone.checkpoint={file} backbone.levels=5 "
        "backbone.channels=2 backbone.max_channels=4 backbone.latent_size=3`"
    )
    assert main(["weights", "describe", str(file), "--output", str(output)]) == 0
    schemas.register()
    search = f"hydra.searchpath=[file://{output.parents[1]}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["backbone=my_alae", "dataset.image_size=32", search])
    whole = OmegaConf.to_object(config)
    assert isinstance(whole, TrainConfig)
    backbone = whole.backbone
    assert isinstance(backbone, AlaeConfig)
    assert (backbone.checkpoint, backbone.image_size) == (str(file), 32)
    assert {key: getattr(backbone, key) for key in SIZES} == SIZES
