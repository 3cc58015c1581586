"""`task=pretrain`: it learns, averages, exports, and a killed training goes on as if unbroken."""

import json
import logging
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tiny_run import PRETRAIN, ROOT, checked, composed, contents
from waiting import wait_until

from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.settings import GuidedDiffusionConfig
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.config import PretrainConfig
from ddpmseg.data.images import PonyImages
from ddpmseg.errors import ConfigError, DataError, TrainingError
from ddpmseg.io.files import file_sha256
from ddpmseg.randomness import EpochShuffle
from ddpmseg.runs.pretrain import image_source
from ddpmseg.runs.train import train
from ddpmseg.training.pretrain import (
    AveragedWeights,
    DiffusionPretraining,
    learning_rate_factor,
)

FLAGS = UNetFlags(16, 32, 1, "1,2", attention_resolutions="8")


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["pretrain/loss"] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    longer = ("pretrain.num_steps=30", "pretrain.sample_every=30", "pretrain.learning_rate=3e-3")
    train(composed(folder, *PRETRAIN, *longer))
    return folder


def test_loss_falls(finished: Path) -> None:
    seen = losses(finished)
    assert len(seen) == 30
    assert np.mean(seen[-10:]) < 0.7 * np.mean(seen[:5])


def test_files_of_a_pretraining(finished: Path) -> None:
    names = {"config.yaml", "last.ckpt", "metrics.jsonl", "record.json", "train.log"}
    names |= {"unet.json", "unet.safetensors"}
    assert set(contents(finished)) == names | {"samples_00000030.png"}
    with Image.open(finished / "samples_00000030.png") as picture:
        picture.load()
        assert picture.size == (2 * 16 + 3 * 2, 16 + 2 * 2)


def test_card_and_weights_make_a_backbone(finished: Path) -> None:
    card = json.loads((finished / "unet.json").read_text())
    flags = UNetFlags(**card["unet"])
    assert flags.image_size == 16
    assert card["steps"] == 30
    assert card["sha256"] == file_sha256(finished / "unet.safetensors")
    assert card["pretrain"]["num_steps"] == 30
    assert card["data"] == "8 scenes of ponies"
    backbone = GuidedDiffusionBackbone("ours", flags, str(finished / "unet.safetensors"))
    state = load_file(finished / "unet.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float16}
    for key, value in backbone.unet.state_dict().items():
        assert torch.equal(value, state[key].float())
    assert sum(value.numel() for value in state.values()) == card["parameters"]


def test_finished_pretraining_is_not_replaced_unasked(finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(ConfigError, match=r"finished run \(unet\.json\).*paths\.overwrite=true"):
        train(composed(finished, *PRETRAIN))
    assert contents(finished) == before


def test_learning_rate_rises_holds_and_falls() -> None:
    factors = [learning_rate_factor(step, 4, 20, 0.5) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:11] == [1.0] * 7
    assert factors[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert learning_rate_factor(0, 0, 10, 0.0) == 1.0
    # A longer training has the same beginning.
    assert factors[:11] == [learning_rate_factor(step, 4, 40, 0.5) for step in range(11)]


def test_average_equals_a_plain_loop() -> None:
    network = pl.LightningModule()
    network.line = torch.nn.Linear(2, 1)
    averaging = AveragedWeights(0.9)
    averaging.setup(pl.Trainer(logger=False, accelerator="cpu"), network, "fit")
    model = averaging._average_model
    assert model is not None
    expected = [parameter.detach().clone() for parameter in network.parameters()]
    for count in range(120):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(count)
        model.update_parameters(network)
        # The first update copies, as in torch.optim.swa_utils.
        decay = 0.0 if count == 0 else min(0.9, (1 + count) / (10 + count))
        expected = [decay * average + (1 - decay) * count for average in expected]
    for parameter, average in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), average)


def test_a_step_does_not_wait_for_the_device() -> None:
    """Numbers on the meta device cannot be read: whoever would wait for a GPU raises here."""
    module = DiffusionPretraining(FLAGS, PretrainConfig(), PonyImages(4, 16, 0), seed=3)
    trainer = pl.Trainer(logger=False, accelerator="cpu", log_every_n_steps=50)
    averaging = AveragedWeights(0.9)
    averaging.setup(trainer, module, "fit")
    average = averaging._average_model
    assert average is not None
    module.trainer = trainer
    module.to("meta")
    average.module.to("meta")
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8, device="meta")
    for step in range(3):
        module.training_step((step, images), step).backward()
        average.update_parameters(module)


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_loss_that_is_not_finite_ends_it_before_a_checkpoint(
    log_every: int, tmp_path: Path
) -> None:
    given = (*PRETRAIN, f"trainer.log_every_n_steps={log_every}", "pretrain.checkpoint_every=4")
    with pytest.raises(TrainingError, match=r"pretraining loss is (nan|inf) at step \d\. Lower"):
        train(composed(tmp_path, *given, "pretrain.learning_rate=1e30"))
    assert not (tmp_path / "last.ckpt").exists()
    assert not (tmp_path / "unet.safetensors").exists()


def draw(batch: int, step: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    config = PretrainConfig(batch_size=batch)
    fake = SimpleNamespace(seed=seed, config=config, diffusion=SimpleNamespace(num_timesteps=1000))
    images = torch.zeros(batch, 3, 4, 4, dtype=torch.uint8)
    return DiffusionPretraining._draw(fake, step, images)  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("unchecked")
@given(st.integers(1, 32), st.integers(0, 10_000), st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_timesteps_cover_all_strata(batch: int, step: int, seed: int) -> None:
    x_0, timesteps, noise = draw(batch, step, seed)
    for part, timestep in enumerate(sorted(timesteps.tolist())):
        assert int(part * 1000 / batch) <= timestep <= (part + 1) * 1000 / batch
    assert (x_0 == -1).all()
    assert noise.shape == x_0.shape


@pytest.mark.usefixtures("unchecked")
def test_largest_draw_is_still_a_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    """31 plus the largest number `torch.rand` gives is 32 in fp32."""
    monkeypatch.setattr(torch, "rand", lambda n, generator: torch.full((n,), 1 - 2**-24))
    assert draw(32, 0, 0)[1].max() == 999


def test_draws_of_a_step_are_its_own_and_flip_whole_images() -> None:
    module = DiffusionPretraining(FLAGS, PretrainConfig(), PonyImages(4, 16, 0), seed=3)
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    x_0, timesteps, noise = module._draw(7, images)
    again = module._draw(7, images)
    assert all(torch.equal(a, b) for a, b in zip((x_0, timesteps, noise), again, strict=True))
    other = module._draw(8, images)
    assert not torch.equal(noise, other[2])
    plain = images.float() / 127.5 - 1
    kept = (x_0 == plain).flatten(1).all(1)
    assert torch.equal(x_0[~kept], plain[~kept].flip(3))
    assert 16 <= int(kept.sum()) <= 48
    module.config.horizontal_flips = False
    assert torch.equal(module._draw(7, images)[0], plain)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_visits_every_item_at_most_once(
    count: int, batch: int, epoch: int, seed: int
) -> None:
    steps = max(1, count // batch)
    shuffle = EpochShuffle(count, batch, seed)
    drawn = [shuffle.batch(epoch * steps + s) for s in range(steps)]
    assert all(len(indices) == batch for indices in drawn)
    assert set(torch.cat(drawn).tolist()) <= set(range(count))
    if batch <= count:
        assert len(set(torch.cat(drawn).tolist())) == steps * batch
    else:
        assert set(drawn[0].tolist()) == set(range(count))
    if count % batch == 0:
        assert sorted(torch.cat(drawn).tolist()) == list(range(count))


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(0, 3))
def test_a_batch_depends_only_on_its_step(steps: list[int], seed: int) -> None:
    shuffle = EpochShuffle(19, 4, seed)
    batches = {step: shuffle.batch(step) for step in steps}
    for step in reversed(steps):
        assert torch.equal(shuffle.batch(step), batches[step])
        assert torch.equal(EpochShuffle(19, 4, seed).batch(step), batches[step])


def test_epochs_and_seeds_differ() -> None:
    shuffle = EpochShuffle(50, 50, 0)
    epochs = [tuple(shuffle.batch(step).tolist()) for step in range(10)]
    assert len(set(epochs)) == 10
    assert epochs[0] != tuple(EpochShuffle(50, 50, 1).batch(0).tolist())


def test_images_from_a_folder_and_from_a_zip(tmp_path: Path) -> None:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.png", "deep/c.png", "deep/d.png")):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "photos"))
    for name in ("photos", "photos.zip"):
        train(composed(tmp_path / f"out_{name}", *PRETRAIN, f"pretrain.images={tmp_path / name}"))
        card = json.loads((tmp_path / f"out_{name}" / "unet.json").read_text())
        assert card["data"] == str(tmp_path / name)
    weights = [
        load_file(tmp_path / f"out_{n}" / "unet.safetensors") for n in ("photos", "photos.zip")
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_image_source_names_a_file_that_is_not_square(tmp_path: Path) -> None:
    Image.new("RGB", (20, 16)).save(tmp_path / "wide.png")
    source = image_source(PretrainConfig(images=str(tmp_path)), 16, 0)
    with pytest.raises(DataError, match=r"wide\.png' is 20x16.*pretrain\.center_crop=true"):
        source[0]
    assert image_source(PretrainConfig(images=str(tmp_path), center_crop=True), 16, 0)[0].shape == (
        3,
        16,
        16,
    )


def test_flags_of_the_tests_are_those_of_the_command(tmp_path: Path) -> None:
    backbone = checked(composed(tmp_path, *PRETRAIN)).backbone
    assert isinstance(backbone, GuidedDiffusionConfig)
    differing = {k for k, v in asdict(backbone.unet).items() if v != getattr(FLAGS, k)}
    assert differing <= {"num_head_channels", "resblock_updown"}


@pytest.mark.slow
def test_killed_pretraining_goes_on_to_exactly_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    longer = ("pretrain.num_steps=24", "pretrain.checkpoint_every=4")
    folder = tmp_path / "killed"
    command = [sys.executable, "train.py", *PRETRAIN, *longer]
    command.append(f"paths.output_dir={folder}")
    running = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = folder / "last.ckpt"
    wait_until(lambda: checkpoint.exists() or running.poll() is not None, 90)
    running.kill()
    assert running.wait() == -9
    done = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 4 <= done < 24
    assert not (folder / "unet.safetensors").exists()

    with caplog.at_level(logging.INFO):
        train(composed(folder, *PRETRAIN, *longer))
    assert f"resuming from {checkpoint}" in caplog.text
    whole = tmp_path / "whole"
    train(composed(whole, *PRETRAIN, *longer))
    resumed, unbroken = (load_file(f / "unet.safetensors") for f in (folder, whole))
    assert resumed.keys() == unbroken.keys()
    for key, value in unbroken.items():
        assert torch.equal(resumed[key], value), key
    assert losses(folder)[-1] == losses(whole)[-1]
