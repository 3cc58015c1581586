"""The programs with the very deep VAE: runs, sweeps, tables, descriptions."""

import csv
import re
from pathlib import Path

import pytest
from golden_vdvae import TINY, save_vdvae, tiny_state, tiny_vdvae
from omegaconf import OmegaConf
from test_encoder_runs import HERE, SWEEP, TRAIN
from tiny_run import blocks_done, composed, layout_of

from ddpmseg.__main__ import main
from ddpmseg.backbones.vdvae.settings import VdvaeConfig
from ddpmseg.config import TrainConfig
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vdvae(tmp_path_factory.mktemp("vdvae") / "w.th", tiny_state())


def overrides(path: Path | str) -> list[str]:
    tiny = [f"backbone.{key}={value}".replace(" ", "") for key, value in TINY.items()]
    return [f"backbone.checkpoint={path}", "backbone.precision='32'", *tiny]


def test_a_run_reads_both_parts_and_stands_beside_the_published_number(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On images twice as large as the network's, with a map of a single pixel."""
    given = ["backbone=vdvae_ffhq", "features.blocks=[3,5,9]", *overrides(file), *TRAIN]
    train(composed(tmp_path, *given))
    with (tmp_path / "results.csv").open() as results:
        row = next(csv.DictReader(results))
    assert (row["backbone"], row["blocks"], row["timesteps"]) == ("vdvae_ffhq", "3 5 9", "-")
    assert len(row["checkpoint_sha256"]) == 64
    assert 0 <= float(row["miou"]) <= 1
    assert main(["table", str(tmp_path)]) == 0
    assert re.search(r"\| *VDVAE\b.*57\.3 ± 1\.1", capsys.readouterr().out)


def test_a_sweep_takes_the_default_blocks_and_an_untrained_control(
    file: Path, tmp_path: Path
) -> None:
    given = [*overrides(file), *SWEEP]
    sweep(composed(tmp_path, "backbone=vdvae", *given, root="sweep"), True)
    assert blocks_done(tmp_path, "random", "pixels") == [[3, 9], [3, 9], [0]]


@pytest.mark.parametrize("dataset", ["ffhq_34", "celeba_19"])
def test_the_experiment_reads_ten_blocks(dataset: str, tmp_path: Path) -> None:
    config = OmegaConf.to_object(composed(tmp_path, "experiment=vdvae", f"dataset={dataset}"))
    assert isinstance(config, TrainConfig)
    layout = layout_of(config)
    assert layout.dim == 5120
    assert sorted({spec.size for spec in layout.maps}) == [8, 16, 32, 64, 128]


def test_the_default_blocks_are_the_networks_own(tmp_path: Path) -> None:
    config = composed(tmp_path, "backbone=vdvae", "backbone.checkpoint=random")
    layout = VdvaeConfig()
    assert config.backbone.enc_blocks == layout.enc_blocks
    assert config.backbone.dec_blocks == layout.dec_blocks
    network = tiny_vdvae(enc_blocks=layout.enc_blocks, dec_blocks=layout.dec_blocks)
    assert tuple(config.features.blocks) == network.default_blocks


def test_blocks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", *HERE, "backbone=vdvae_ffhq", "dataset.image_size=256"]) == 0
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "vdvae_ffhq: blocks, in forward order: encoder, then decoder; no timesteps"
    assert len(rows) == 134
    assert rows[67].split() == ["67", "512", "1x1", "enc_blocks[67]"]
    assert rows[133].split() == ["133", "512", "256x256", "dec_blocks[65],", "adds", "128x128"]


def test_estimate_needs_neither_images_nor_weights(capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "experiment=vdvae",
        "dataset=ffhq_34",
        *overrides("/nowhere.th"),
        "dataset.root=/nowhere",
    ]
    given += ["features.blocks=[3,9]", "dataset.image_size=16", "trainer.accelerator=cpu"]
    assert main(["estimate", *HERE, *given]) == 0
    assert "features: 16 per pixel" in capsys.readouterr().out


def test_a_run_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(composed(tmp_path, "backbone=vdvae_ffhq", *TRAIN))
    assert "checkpoint 'checkpoints/vdvae_ffhq.th' does not exist" in str(caught.value)
    assert "`ddpmseg weights get vdvae_ffhq` fetches it" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["features.blocks=[11]"], r"block 11 does not .* \(blocks 0\.\.10, in forward order: enc"),
        (["features.hook=input"], r"`features.hook=input`: .* are read at their output only"),
        (["backbone.latents=prior"], "`backbone.latents=prior`: must be one of mean, sampled"),
        (["backbone.dec_blocks=[4x1]"], r"'4x1' needs maps of 4 x 4 from the encoder"),
    ],
)
def test_impossible_settings_are_told_before_weights_are_read(
    given: list[str], says: str, file: Path, tmp_path: Path
) -> None:
    chosen = ["features.blocks=[3]", *overrides(file), *TRAIN, *given]
    with pytest.raises(ConfigError, match=says):
        train(composed(tmp_path, "backbone=vdvae", *chosen))


def test_a_file_is_described(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "describe", str(file)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{file}: a very deep VAE, [\d,]+ parameters that are read", title)
    assert "  width: 8" in lines
    assert "  zdim: 2" in lines
    assert "  (set them for 6 and 5 blocks: the network of FFHQ-256 has others)" in lines
    assert lines[-1] == (
        f"use it with `backbone=vdvae backbone.checkpoint={file} backbone.width=8 "
        "backbone.bottleneck_multiple=0.5 backbone.zdim=2 backbone.no_bias_above=8`"
    )


def test_the_published_layout_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = VdvaeConfig()
    state = tiny_state(enc_blocks=layout.enc_blocks, dec_blocks=layout.dec_blocks)
    path = save_vdvae(tmp_path / "w.th", state)
    assert main(["weights", "describe", str(path)]) == 0
    assert (
        "  (as many blocks (68 and 66) as the network of FFHQ-256: its are set)"
        in capsys.readouterr().out.splitlines()
    )
