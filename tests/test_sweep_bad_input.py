"""What a user can get wrong with `ddpmseg sweep`: a sentence that names it, and no cell lost."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from test_bad_input import must_not_run, save_pair, some_pair
from tiny_run import ROOT, SWEEP, composed_sweep, contents

from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.backbones.settings import WeightsConfig
from ddpmseg.errors import CheckpointError, ConfigError, DataError, UserError
from ddpmseg.records.cells import CellStore
from ddpmseg.sweeps.sweep import finished, sweep

ONE = (
    "sweep.blocks=[1]",
    "sweep.timesteps=[5]",
    "sweep.controls=[]",
    "sweep.clusters.images=0",
    "sweep.head.max_steps=2",
)
"""A sweep of a single cell."""
CLASSES = """
name: thirds
ignore_label: 255
classes: [{name: dark}, {name: bright}, {name: unseen}]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three training and two test photographs; no mask holds the third class."""
    root = tmp_path / "set"
    for split, count in (("train", 3), ("test", 2)):
        (root / "real" / split).mkdir(parents=True)
        for index in range(count):
            save_pair(root / "real" / split, f"photo_{index}", *some_pair(index))
    (root / "classes.yaml").write_text(CLASSES)
    return root


def of(data: Path) -> tuple[str, ...]:
    """Overrides that sweep over the folder `data`."""
    return (
        "dataset=folder",
        f"dataset.root={data}",
        f"dataset.classes={data / 'classes.yaml'}",
        "dataset.num_labelled=null",
        "dataset.num_test=null",
        *ONE,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    sweep(composed_sweep(folder, *ONE), True)
    return folder


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """The folder of an earlier, finished sweep."""
    return shutil.copytree(whole, tmp_path / "out")


def refused(kind: type[UserError], says: list[str], out: Path, *overrides: str) -> None:
    """A sweep must fail and leave the files in `out` as they were."""
    before = contents(out)
    with pytest.raises(kind) as caught:
        sweep(composed_sweep(out, *overrides))
    for part in says:
        assert part in str(caught.value)
    assert contents(out) == before


IMPOSSIBLE = [
    ("sweep.timesteps=[]", ["`sweep.timesteps=[]`", "at least one number of 0..999"]),
    ("sweep.blocks=[]", ["`sweep.blocks=[]`", "at least one number of 0..3"]),
    ("sweep.seeds=[]", ["`sweep.seeds=[]`", "at least one number"]),
    ("sweep.timesteps=[5,50,5]", ["`sweep.timesteps=[5, 50, 5]`", "twice"]),
    ("sweep.blocks=[1,1]", ["`sweep.blocks=[1, 1]`", "twice"]),
    ("sweep.seeds=[0,0]", ["`sweep.seeds=[0, 0]`", "twice"]),
    ("sweep.blocks=[1,4]", ["`sweep.blocks`", "there is no 4", "0..3"]),
    ("sweep.blocks=[-1]", ["`sweep.blocks`", "there is no -1", "0..3"]),
    ("sweep.timesteps=[1000]", ["`sweep.timesteps`", "there is no 1000", "0..999"]),
    ("sweep.timesteps=[-5]", ["`sweep.timesteps`", "there is no -5", "0..999"]),
    ("sweep.seeds=[-1]", ["`sweep.seeds=-1`", "0.."]),
    ("sweep.controls=[colours]", ["`sweep.controls=colours`", "pixels, random"]),
    ("sweep.head.members=2", ["`sweep.head.members=2`", "single member", "sweep.seeds=[0,1,2]"]),
    ("sweep.head.hidden=[8,0]", ["head.hidden=0", "at least 1"]),
    ("sweep.head.protocol=slow", ["head.protocol=slow", "paper, fast"]),
    ("sweep.hook=middle", ["`sweep.hook=middle`", "output, input"]),
    ("sweep.noise=none", ["`sweep.noise=none`", "shared, timestep, image, fresh"]),
    ("sweep.batch_size=0", ["`sweep.batch_size=0`", "at least 1"]),
    ("sweep.num_examples=-1", ["`sweep.num_examples=-1`", "at least 0"]),
    ("sweep.clusters.k=1", ["`sweep.clusters.k=1`", "at least 2"]),
    ("sweep.clusters.images=-1", ["`sweep.clusters.images=-1`", "at least 0"]),
    ("sweep.clusters.blocks=[9]", ["`sweep.clusters.blocks`", "there is no 9", "0..3"]),
    ("sweep.clusters.timesteps=[]", ["`sweep.clusters.timesteps=[]`", "0..999"]),
    ("dataset.image_size=17", ["`dataset.image_size` is 17", "divisible by 2"]),
    ("trainer.accelerator=abacus", ["trainer.accelerator=abacus", "auto, cpu, gpu"]),
    ("dataset.root=/nowhere/at/all", ["dataset.root=/nowhere/at/all", "no such folder"]),
]


@pytest.mark.parametrize(("override", "says"), IMPOSSIBLE, ids=lambda v: v if "=" in v else "")
def test_impossible_settings_fail_before_any_weight_is_looked_for(
    override: str, says: list[str], out: Path
) -> None:
    """The checkpoint does not exist either, and is not what the message is about."""
    dataset = ("dataset=folder", "dataset.classes=ponies") if "root" in override else ()
    later = ("backbone.checkpoint=/nowhere/weights.pt", "paths.overwrite=true")
    refused(ConfigError, says, out, *ONE, *dataset, *later, override)
    with pytest.raises(ConfigError):
        finished(composed_sweep(out, *dataset, override))


def test_unknown_setting() -> None:
    with pytest.raises(HydraException) as caught:
        composed_sweep(Path("/nowhere"), "sweep.blok=[1]")
    assert "Key 'blok' not in 'SweepSettings'" in str(caught.value.__cause__)


def test_folder_of_another_request(out: Path) -> None:
    for override, says in (
        ("seed=1", "`seed` was 0, is 1."),
        ("sweep.noise=fresh", "`sweep.noise` was shared, is fresh."),
        ("dataset.num_labelled=2", "`dataset.num_labelled` was 3, is 2."),
        ("backbone.unet.num_channels=64", "`backbone.unet.num_channels` was 32, is 64."),
        ("trainer.precision=bf16-mixed", "training precision was 32-true, is bf16-mixed."),
    ):
        refused(ConfigError, ["cells of another request", says], out, *ONE, override)
        with pytest.raises(ConfigError, match=re.escape(says)):
            finished(composed_sweep(out, *ONE, override))


def test_folder_of_another_version(out: Path) -> None:
    path = out / "sweep.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    refused(ConfigError, ["in format 3", "reads formats up to 2", "paths.output_dir"], out, *ONE)


def test_folder_that_lost_its_identity(out: Path) -> None:
    (out / "sweep.json").unlink()
    refused(ConfigError, ["holds cells, but 'sweep.json'", "missing"], out, *ONE)


def test_folder_that_is_being_computed(out: Path) -> None:
    more = ("sweep.timesteps=[5,50]", "paths.overwrite=true")
    with CellStore(out).held([50]):
        for overrides in (more[:1], more):
            with pytest.raises(ConfigError, match=r"t = 50 of '.*' is being computed by process"):
                sweep(composed_sweep(out, *ONE, *overrides))
            assert CellStore(out).done() == {(1, 5, 0)}


def test_output_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ConfigError, match=r"taken' is not a folder that can be written to"):
            sweep(composed_sweep(folder, *ONE), True)
    assert (tmp_path / "taken").read_text() == "precious"


def test_output_folder_may_not_be_written_to(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(ConfigError, [f"`paths.output_dir={out}`", "Choose another"], out, *ONE)


def test_disk_that_is_full(tmp_path: Path, full_disk: Callable[[Path], None]) -> None:
    """The second timestep finds no room; the first is kept, and the rest follows later."""
    folder, both = tmp_path / "sweep", (*ONE, "sweep.timesteps=[5,50]")
    full_disk(folder / "cells" / "b01_t0050_s0.json")
    with pytest.raises(DataError, match=r"No space left on device\)\. Make room, and repeat"):
        sweep(composed_sweep(folder, *both), True)
    assert CellStore(folder).done() == {(1, 5, 0)}
    sweep(composed_sweep(folder, *both), True)
    assert CellStore(folder).done() == {(1, 5, 0), (1, 50, 0)}


def spoil_image(split: Path) -> None:
    content = (split / "photo_1.jpg").read_bytes()
    (split / "photo_1.jpg").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_image_shows_before_anything_is_computed(
    split: str, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightsConfig, "build", must_not_run)
    spoil_image(data / "real" / split)
    says = [f"{split}/photo_1.jpg' cannot be decoded"]
    refused(DataError, says, out, *of(data), "paths.overwrite=true")


def test_images_that_changed_since(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep(composed_sweep(folder, *of(data)), True)
    path = data / "real" / "test" / "photo_0.npy"
    mask = np.load(path)
    mask[0, 0] = 1 - mask[0, 0]
    np.save(path, mask)
    says = ["cells of another request", "the SHA-256 of the images was ", "paths.output_dir"]
    refused(ConfigError, says, folder, *of(data))


def test_class_that_no_image_holds(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep(composed_sweep(tmp_path / "sweep", *of(data)), True)
    assert "no training image holds 'unseen': it cannot be learnt" in caplog.messages
    assert any(told.startswith("no test image holds 'unseen'") for told in caplog.messages)


def test_a_single_labelled_image_will_do(data: Path, tmp_path: Path) -> None:
    one = ("dataset.num_labelled=1", "dataset.num_test=1")
    score = sweep(composed_sweep(tmp_path / "sweep", *of(data), *one))
    assert score is not None
    assert (tmp_path / "sweep" / "report.html").is_file()


def test_more_images_than_there_are(data: Path, out: Path) -> None:
    given = (*of(data), "dataset.num_labelled=9", "paths.overwrite=true")
    refused(DataError, ["`dataset.num_labelled` is 9", "only 3"], out, *given)


def test_no_training_pixel_has_a_label(data: Path, tmp_path: Path) -> None:
    for path in (data / "real" / "train").glob("*.npy"):
        np.save(path, np.full((16, 16), 255, np.uint8))
    with pytest.raises(DataError, match="no training pixel has a label"):
        sweep(composed_sweep(tmp_path / "sweep", *of(data)), True)


def save_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    flags = UNetFlags(16, 32, 1, "1,2", attention_resolutions="8", resblock_updown=True)
    torch.save(build_unet(flags)[0].state_dict(), path)


def test_weight_file_that_was_replaced(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.pt", tmp_path / "sweep"
    save_weights(path, 0)
    given = (*ONE, f"backbone.checkpoint={path}")
    sweep(composed_sweep(folder, *given), True)
    save_weights(path, 1)
    says = ["cells of another request", "the SHA-256 of the weights was ", "paths.output_dir"]
    refused(ConfigError, says, folder, *given)
    save_weights(path, 0)
    sweep(composed_sweep(folder, *given), True)


def test_weight_file_that_is_damaged(out: Path, tmp_path: Path) -> None:
    """It costs no cell, and claims no folder for what it holds."""
    path = tmp_path / "weights.pt"
    save_weights(path, 0)
    path.write_bytes(path.read_bytes()[:5000])
    given = (*ONE, f"backbone.checkpoint={path}")
    refused(CheckpointError, ["truncated", str(path)], out, *given, "paths.overwrite=true")
    (tmp_path / "new").mkdir()
    refused(CheckpointError, ["truncated", str(path)], tmp_path / "new", *given)
    save_weights(path, 0)
    sweep(composed_sweep(tmp_path / "new", *given), True)


def test_weight_file_that_is_not_there(out: Path) -> None:
    given = (*ONE, "backbone.checkpoint=/nowhere/weights.pt", "paths.overwrite=true")
    refused(CheckpointError, ["/nowhere/weights.pt' does not exist"], out, *given)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_program_prints_a_sentence_and_fails(tmp_path: Path) -> None:
    given = [*SWEEP, f"paths.output_dir={tmp_path / 'sweep'}", "sweep.timesteps=[1000]"]
    command = [sys.executable, "sweep.py", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: `sweep.timesteps`: there is no 1000" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
