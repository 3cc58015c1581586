"""`data get`, `weights get` and the first use: from a server on loopback to a run."""

import hashlib
import io
import logging
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from tiny_run import CONF, SEGMENT, SWEEP, checked, composed, contents, layout_of
from web import Web, serving

from ddpmseg.__main__ import main
from ddpmseg.backbones.guided_diffusion.settings import GuidedDiffusionConfig
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.config import sweep_key
from ddpmseg.data.settings import FolderDatasetConfig
from ddpmseg.errors import CheckpointError, ConfigError, DownloadError
from ddpmseg.runs.train import train
from ddpmseg.sweeps import sweep as sweep_module
from ddpmseg.sweeps.sweep import sweep

SIZE = 16
HERE = ("--config-dir", str(CONF))
SETS = ["bedroom_28", "ffhq_34", "cat_15", "horse_21", "celeba_19", "ade_bedroom_30"]
MODELS = ["ddpm_lsun_horse", "ddpm_lsun_cat", "ddpm_lsun_bedroom", "ddpm_ffhq"]


def packed() -> bytes:
    """An archive of two sets in the authors' layout: 3 + 2 pictures each."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in ("horse_21", "cat_15"):
            for split, count in (("train", 3), ("test", 2)):
                for index in range(count):
                    draw = np.random.default_rng(index)
                    image, mask = io.BytesIO(), io.BytesIO()
                    pixels = draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(image, format="png")
                    np.save(mask, draw.integers(0, 11, (SIZE, SIZE), dtype=np.uint8))
                    for content, suffix in ((image, "png"), (mask, "npy")):
                        info = tarfile.TarInfo(f"{name}/real/{split}/{index}.{suffix}")
                        info.size = content.tell()
                        content.seek(0)
                        tar.addfile(info, content)
    return file.getvalue()


def tiny_weights() -> bytes:
    flags = UNetFlags(16, 32, 1, "1,2", attention_resolutions="8", num_head_channels=32)
    flags.resblock_updown = True
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(build_unet(flags)[0].state_dict(), file)
    return file.getvalue()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Web(packed())) as web:
        yield web


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Web(tiny_weights())) as web:
        yield web


@pytest.fixture
def get_data(archive: Web, tmp_path: Path) -> Callable[..., int]:
    def get(name: str, *overrides: str) -> int:
        mirror = [f"dataset.url={archive.url}", f"paths.cache_dir={tmp_path / 'cache'}"]
        place = f"dataset.root={tmp_path / 'data' / name}"
        return main(["data", "get", name, *mirror, place, *overrides, *HERE])

    return get


def test_a_dataset_is_fetched_and_unpacked(
    get_data: Callable[..., int], archive: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert get_data("horse_21") == 0
    assert len(contents(tmp_path / "data" / "horse_21")) == 10
    assert "terms of 'horse_21': no statement was found for the labels" in caplog.text
    assert f"fetching {archive.url} to" in caplog.text
    assert "`ddpmseg data check horse_21` verifies it" in caplog.text
    # The next set needs no transfer, the same one nothing at all.
    assert get_data("cat_15") == 0
    assert len(contents(tmp_path / "data" / "cat_15")) == 10
    assert get_data("horse_21") == 0
    assert "exists already" in caplog.text
    assert len(archive.requests) == 1


def test_the_terms_are_told_before_the_first_byte(
    get_data: Callable[..., int], archive: Web, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    archive.status = 404
    assert get_data("horse_21") == 2
    assert "terms of 'horse_21'" in caplog.text


def test_a_folder_that_is_not_in_the_archive(
    get_data: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_data("ffhq_34") == 2
    assert "has no folder 'ffhq_34' with files" in capsys.readouterr().err
    assert not (tmp_path / "data" / "ffhq_34").exists()


def test_the_archive_is_checked_before_it_is_unpacked(
    get_data: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_data("horse_21", f"dataset.sha256={'0' * 64}") == 2
    assert f"expected was {'0' * 64}" in capsys.readouterr().err
    assert get_data("horse_21") == 0
    (kept,) = (tmp_path / "cache" / "downloads").glob("*/some.bin")
    kept.write_bytes(kept.read_bytes() + b"\0")
    assert get_data("cat_15") == 2
    assert f"'{kept}' has changed since it was fetched" in capsys.readouterr().err
    assert not (tmp_path / "data" / "cat_15").exists()


def test_what_was_got_is_checked_by_file(
    get_data: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_data("cat_15") == 0
    root = tmp_path / "data" / "cat_15"
    check = ["data", "check", "cat_15", f"dataset.root={root}", *HERE]
    assert main(check) == 1
    assert "'real/train' has 3 pairs, the paper's has 30" in capsys.readouterr().out
    (root / "real/test/1.npy").write_bytes((root / "real/test/0.npy").read_bytes())
    assert main(check) == 1
    told = capsys.readouterr().out
    assert "1.npy' has changed" in told
    assert f"in '{root}.sha256', written when it was unpacked" in told


def get_weights(model: Web, place: Path, *overrides: str) -> int:
    given = [f"backbone.url={model.url}", f"backbone.checkpoint={place}", *overrides]
    return main(["weights", "get", "ddpm_lsun_horse", *given, *HERE])


def test_weights_are_fetched_once(
    model: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "checkpoints" / "x.pt"
    assert get_weights(model, place) == 0
    assert place.read_bytes() == model.content
    assert "terms of 'ddpm_lsun_horse': no statement was found for the weights" in caplog.text
    assert get_weights(model, place) == 0
    assert "exists already, as expected" in caplog.text
    assert len(model.requests) == 1


def test_weights_that_cannot_be_had(
    model: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "x.pt"
    model.type = "text/html"
    assert get_weights(model, place) == 2
    error = capsys.readouterr().err
    assert f"error: {model.url} gave a web page" in error
    assert f"put it at '{place}'" in error
    assert get_weights(model, place, "backbone.sha256=abc") == 2
    assert "`backbone.sha256=abc`: must be 64 hex digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data", "get", "ponies"], "`dataset=ponies` is drawn when asked for"),
        (["data", "get", "zebras"], "Could not find 'dataset/zebras'"),
        (
            ["data", "get", "folder", "dataset.root=/nowhere", "dataset.classes=ponies"],
            "`dataset.url` is null",
        ),
        (["weights", "get", "pixels"], "`backbone=pixels` needs no weight file"),
        (["weights", "get", "ddpm_ponies"], "`backbone=ddpm_ponies` needs no weight file"),
        (["weights", "get", "random"], "`backbone=random` needs no weight file"),
        (["weights", "get", "guided_diffusion_64", "backbone.checkpoint=x.pt"], "url` is null"),
    ],
    ids=lambda v: v[2] if isinstance(v, list) else "",
)
def test_mistakes_have_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *HERE]) == 2
    assert says in capsys.readouterr().err


def first_use(archive: Web, model: Web, tmp_path: Path, settings: tuple[str, ...]) -> list[str]:
    """Overrides of a tiny run whose photographs and weights are not there yet."""
    return [
        "dataset=horse_21",
        f"dataset.root={tmp_path / 'data' / 'horse_21'}",
        f"dataset.url={archive.url}",
        "dataset.download=true",
        *(setting for setting in settings if setting != "backbone=random"),
        "backbone=guided_diffusion_64",
        f"backbone.checkpoint={tmp_path / 'x.pt'}",
        f"backbone.url={model.url}",
        "backbone.download=true",
        f"paths.cache_dir={tmp_path / 'cache'}",
    ]


def composed_first_use(
    archive: Web, model: Web, tmp_path: Path, *more: str, root: str = "train"
) -> DictConfig:
    settings = SEGMENT if root == "train" else SWEEP
    given = first_use(archive, model, tmp_path, settings)
    return composed(tmp_path / "run", *given, *more, root=root)


def test_train_fetches_what_is_missing_at_the_first_use(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    cfg = composed_first_use(archive, model, tmp_path)
    assert train(cfg) is not None
    assert (tmp_path / "run" / "results.csv").is_file()
    again = composed_first_use(archive, model, tmp_path, "paths.overwrite=true")
    assert train(again) is not None
    assert len(archive.requests) == len(model.requests) == 1


def test_sweep_fetches_what_is_missing_at_the_first_use(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    cfg = composed_first_use(
        archive, model, tmp_path, "sweep.timesteps=[5]", "sweep.controls=[]", root="sweep"
    )
    assert sweep_module.finished(cfg) is None
    dry = composed_first_use(archive, model, tmp_path, "sweep.dry_run=true", root="sweep")
    assert sweep(dry) is None
    assert not archive.requests
    best = sweep(cfg, True)
    assert best is not None
    assert len(archive.requests) == len(model.requests) == 1
    assert sweep_module.finished(cfg) == best


def test_how_files_are_got_is_no_part_of_what_a_sweep_holds(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    keys = {
        sweep_key(composed_first_use(archive, model, tmp_path, *more, root="sweep"))
        for more in (
            (),
            ("dataset.download=false", "backbone.download=false"),
            ("dataset.url=http://mirror/x.tar", f"backbone.sha256={'0' * 64}"),
        )
    }
    assert len(keys) == 1


def test_nothing_is_fetched_for_settings_that_cannot_work(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    cfg = composed_first_use(archive, model, tmp_path, "features.blocks=[99]")
    with pytest.raises(ConfigError, match="block 99"):
        train(cfg)
    cfg = composed_first_use(archive, model, tmp_path, "backbone.url=null")
    with pytest.raises(ConfigError, match=r"`backbone\.url` is null"):
        train(cfg)
    assert not archive.requests
    assert not model.requests


def test_a_download_that_fails_leaves_the_output_folder_alone(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    model.status = 404
    with pytest.raises(DownloadError, match="there is no such file"):
        train(composed_first_use(archive, model, tmp_path))
    assert not (tmp_path / "run").exists()


def test_weights_that_changed_after_the_download_are_not_used(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    train(composed_first_use(archive, model, tmp_path))
    place = tmp_path / "x.pt"
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        train(composed_first_use(archive, model, tmp_path, "paths.overwrite=true"))
    message = str(caught.value)
    assert f"'{place}' has changed since it was fetched from {model.url}" in message
    assert hashlib.sha256(content).hexdigest() in message
    assert hashlib.sha256(model.content).hexdigest() in message


def test_a_digest_that_was_given_holds_for_a_file_put_there_by_hand(
    archive: Web, model: Web, tmp_path: Path
) -> None:
    (tmp_path / "x.pt").write_bytes(model.content)
    given = ("backbone.download=false", f"backbone.sha256={'0' * 64}")
    with pytest.raises(CheckpointError, match="is not the file that was asked for"):
        train(composed_first_use(archive, model, tmp_path, *given))
    assert not model.requests


def test_missing_files_are_answered_with_the_command_that_gets_them(tmp_path: Path) -> None:
    nowhere = f"dataset.root={tmp_path / 'none'}"
    with pytest.raises(ConfigError) as caught:
        checked(composed(tmp_path, "dataset=horse_21", nowhere))
    assert "no such folder" in str(caught.value)
    assert "`ddpmseg data get horse_21` fetches it" in str(caught.value)
    assert "`dataset.download=true`" in str(caught.value)
    missing = f"backbone.checkpoint={tmp_path / 'none.pt'}"
    with pytest.raises(CheckpointError) as caught:
        checked(composed(tmp_path, "backbone=ddpm_lsun_horse", missing))
    assert "none.pt' does not exist" in str(caught.value)
    assert "`ddpmseg weights get ddpm_lsun_horse` fetches it" in str(caught.value)
    assert "`backbone.download=true`" in str(caught.value)


@pytest.mark.parametrize("name", SETS)
def test_every_set_of_the_paper_can_be_got(name: str, tmp_path: Path) -> None:
    dataset = composed(tmp_path, f"dataset={name}").dataset
    assert dataset.url.endswith("/ddpm-segmentation/datasets.tar.gz")
    assert "no statement was found" in dataset.terms
    assert (dataset.root, dataset.download) == (f"data/{name}", False)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_paper_can_be_got(name: str, tmp_path: Path) -> None:
    """With 8448 features per pixel from 552.8 M parameters (paper, section 4)."""
    cfg = composed(tmp_path, f"backbone={name}", "dataset.image_size=256")
    short = name.removeprefix("ddpm_")
    assert cfg.backbone.name == name
    assert cfg.backbone.checkpoint == f"checkpoints/{short}.pt"
    assert cfg.backbone.url.endswith(f"/models/ddpm_checkpoints/{short}.pt")
    assert "no statement was found" in cfg.backbone.terms


def test_the_papers_networks_have_their_size(tmp_path: Path) -> None:
    cfg = composed(
        tmp_path, f"backbone={MODELS[0]}", "backbone.checkpoint=random", "dataset.image_size=256"
    )
    config = checked(cfg)
    assert isinstance(config.backbone, GuidedDiffusionConfig)
    assert not isinstance(config.dataset, FolderDatasetConfig)
    assert layout_of(config).dim == 8448
    with torch.device("meta"):
        unet, _ = build_unet(config.backbone.unet)
    assert sum(value.numel() for value in unet.parameters()) == 552_814_086
