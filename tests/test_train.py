"""`task=segment` from end to end at tiny size: what it leaves, that it repeats, that it resumes."""

import csv
import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from PIL import Image
from tiny_run import SEGMENT, checked, composed, composed_sweep, contents

from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.finished.open import open_run
from ddpmseg.heads.base import TrainedHead
from ddpmseg.heads.export import load_head
from ddpmseg.heads.protocols import BatchLossStopping
from ddpmseg.records.results import COLUMNS
from ddpmseg.records.run_folder import hold_run
from ddpmseg.runs import segment
from ddpmseg.runs.predict import predict
from ddpmseg.runs.train import finished as is_finished
from ddpmseg.runs.train import train
from ddpmseg.runtime.process_setup import process_setup
from ddpmseg.sweeps.sweep import sweep
from ddpmseg.training.callbacks import Checkpoint
from ddpmseg.training.head import HeadTraining

MEASURED = (
    "seconds_extract",
    "seconds_train",
    "seconds_test",
    "pairs_computed",
    "pairs_read",
    "peak_rss_mb",
)


def row_of(folder: Path) -> dict[str, str]:
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def outcome(folder: Path) -> dict[str, str]:
    """The row of results without what depends on the machine."""
    return {key: value for key, value in row_of(folder).items() if key not in MEASURED}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    head, _ = load_head(folder / "head.safetensors")
    return head.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def finished(finished_run: Path) -> Path:
    return finished_run


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_maps_of_other_sixteen_bits_than_those_of_the_training(
    tmp_path: Path, protocol: str
) -> None:
    """As on a GPU, where the network runs in float16 and the head is trained in bfloat16."""
    given = ("backbone.precision='16'", "trainer.precision=bf16-mixed", f"head.protocol={protocol}")
    train(composed(tmp_path, *SEGMENT, *given))
    assert 0 < float(row_of(tmp_path)["pixel_accuracy"]) <= 1


def test_files_of_a_run(finished: Path) -> None:
    assert set(contents(finished)) == {
        "config.yaml",
        "confusion.csv",
        "head.safetensors",
        "masks/test_00000.npy",
        "masks/test_00000.png",
        "masks/test_00001.npy",
        "masks/test_00001.png",
        "metrics.jsonl",
        "overlays.png",
        "per_class.csv",
        "record.json",
        "results.csv",
        "train.log",
    }


def test_row_of_results(finished: Path) -> None:
    row = row_of(finished)
    assert tuple(row) == COLUMNS
    assert row["dataset"] == "ponies"
    assert (row["backbone"], row["checkpoint_sha256"]) == ("random", "")
    assert (row["blocks"], row["timesteps"]) == ("1 2", "5 50")
    assert (row["head"], row["protocol"], row["members"]) == ("mlp-8", "fast", "2")
    assert (row["seed"], row["num_labelled"], row["num_test"]) == ("0", "3", "2")
    for key in ("miou", "miou_present", "pixel_accuracy"):
        assert 0 <= float(row[key]) <= 1
    assert float(row["pixel_accuracy"]) > 0
    assert 0 <= float(row["uncertainty"]) <= np.log(2)
    assert float(row["peak_rss_mb"]) > 50


def test_scores_are_those_of_the_masks(finished: Path) -> None:
    """Counted again from the files, in plain loops over the classes."""
    predicted, true = [], []
    for scene in range(2):
        predicted.append(np.load(finished / "masks" / f"test_{scene:05d}.npy"))
        true.append(draw_pony(scene, "test", 0, 16)[1])
    predicted, true = np.stack(predicted), np.stack(true)
    table = list(csv.DictReader((finished / "per_class.csv").read_text().splitlines()))
    ious = []
    for label in range(11):
        union = ((predicted == label) | (true == label)).sum()
        overlap = ((predicted == label) & (true == label)).sum()
        assert int(table[label]["true_pixels"]) == (true == label).sum()
        assert int(table[label]["predicted_pixels"]) == (predicted == label).sum()
        if union:
            ious.append(overlap / union)
            assert float(table[label]["iou_present"]) == pytest.approx(overlap / union)
        else:
            assert table[label]["iou_present"] == ""
    assert float(row_of(finished)["miou_present"]) == pytest.approx(np.mean(ious), abs=1e-9)
    accuracy = (predicted == true).mean()
    assert float(row_of(finished)["pixel_accuracy"]) == pytest.approx(accuracy, abs=1e-9)


def test_pictures_agree_with_the_labels(finished: Path) -> None:
    classes = load_class_table("ponies")
    for labels in (finished / "masks").glob("*.npy"):
        mask = np.load(labels)
        assert (mask.dtype, mask.shape) == (np.uint8, (16, 16))
        with Image.open(labels.with_suffix(".png")) as picture:
            np.testing.assert_array_equal(np.asarray(picture), mask)
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), classes.palette[mask])
    with Image.open(finished / "overlays.png") as sheet:
        sheet.load()
        assert sheet.width > 4 * 192


def test_confusion_and_metrics(finished: Path) -> None:
    with (finished / "confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    names = load_class_table("ponies").names
    assert header == ["true", *names]
    assert [row[0] for row in rows] == [*names, "(ignored)"]
    assert sum(int(count) for row in rows for count in row[1:]) == 2 * 16 * 16
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines[:6]] == [1, 2, 3, 4, 5, 6]
    assert all("train/loss" in line for line in lines[:6])
    assert lines[-1]["test/miou"] == pytest.approx(float(row_of(finished)["miou"]), abs=1e-6)


def test_head_says_what_it_is(finished: Path) -> None:
    head, facts = load_head(finished / "head.safetensors")
    # Two timesteps of block 1 (64 channels) and block 2 (32 channels).
    assert (head.dim, head.num_classes, head.members, head.hidden) == (192, 11, 2, (8,))
    assert facts["class_names"] == list(load_class_table("ponies").names)
    assert facts["features"]["blocks"] == [1, 2]


def test_recorded_configuration_loads_as_the_same_objects(finished: Path) -> None:
    assert open_run(finished).config == checked(composed(finished, *SEGMENT))


@pytest.mark.parametrize("text", ["", "a: 1\n", "[1, 2]\n", "a: [1\n", "dataset: {name: x}\n"])
def test_configuration_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml' is not the configuration of a ddpmseg"):
        open_run(tmp_path)


def test_predict_equals_the_mask_of_the_run(finished: Path, tmp_path: Path) -> None:
    for scene in range(2):
        Image.fromarray(draw_pony(scene, "test", 0, 16)[0]).save(tmp_path / f"pony_{scene}.png")
    paths = [tmp_path / f"pony_{scene}.png" for scene in range(2)]
    masks = predict(paths, finished, tmp_path / "masks", "cpu")
    assert masks == [tmp_path / "masks" / f"pony_{scene}.npy" for scene in range(2)]
    for scene, path in enumerate(masks):
        expected = np.load(finished / "masks" / f"test_{scene:05d}.npy")
        np.testing.assert_array_equal(np.load(path), expected)


def test_predict_takes_a_photograph_of_any_shape(finished: Path, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    (mask,) = predict([tmp_path / "photo.jpg"], finished, tmp_path / "out", "cpu")
    labels = np.load(mask)
    assert labels.shape == (16, 16)
    assert labels.max() < 11
    with Image.open(tmp_path / "out" / "photo_overlay.png") as picture:
        assert picture.size == (16, 16)


def test_predict_refuses_images_that_share_a_name(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two images have the same name"):
        predict([Path("a/x.jpg"), Path("b/x.jpg")], finished, tmp_path, "cpu")


def test_same_seed_same_run_another_seed_another(finished: Path, tmp_path: Path) -> None:
    train(composed(tmp_path / "again", *SEGMENT))
    assert outcome(tmp_path / "again") == outcome(finished)
    assert same(weights(tmp_path / "again"), weights(finished))
    train(composed(tmp_path / "other", *SEGMENT, "seed=1"))
    assert outcome(tmp_path / "other") != outcome(finished) | {"seed": "1"}
    assert not same(weights(tmp_path / "other"), weights(finished))


def test_batch_size_of_the_extraction_does_not_matter(finished: Path, tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, "features.batch_size=1"))
    theirs = weights(finished)
    for key, value in weights(tmp_path).items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "column", "value"),
    [
        (("head=linear", "head.hidden=[]"), "head", "linear"),
        (("head.hidden=null",), "head", "mlp-128-32"),
        (("head.vote=soft",), "members", "2"),
        (("head.members=1",), "members", "1"),
        (("backbone=random", "features.hook=input", "features.noise=fresh"), "backbone", "random"),
        (("dataset.subset_seed=3", "dataset.tiny_annotations=keep"), "num_labelled", "3"),
    ],
    ids=lambda v: str(v),
)
def test_variants_run(overrides: tuple[str, ...], column: str, value: str, tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, *overrides))
    assert row_of(tmp_path)[column] == value


def test_pixels_as_features(tmp_path: Path) -> None:
    given = [key for key in SEGMENT if not key.startswith(("backbone", "features"))]
    chosen = ("backbone=pixels", "features.blocks=[0]", "features.timesteps=[0]")
    train(composed(tmp_path, *given, *chosen))
    assert load_head(tmp_path / "head.safetensors")[0].dim == 3
    opened, expected = (
        open_run(tmp_path).config,
        checked(composed(tmp_path, *given, *chosen)),
    )
    # A run does not record what would have been read had `features` not been chosen.
    expected.backbone.default_features = opened.backbone.default_features
    assert opened == expected


def test_images_of_another_size_than_the_network_was_made_for_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(composed(tmp_path / "run", *SEGMENT, "dataset.image_size=32"))
        sweep(composed_sweep(tmp_path / "sweep", "dataset.image_size=32", "sweep.timesteps=[5]"))
        train(composed(tmp_path / "same", *SEGMENT))
    found = [line for line in caplog.messages if line.startswith("image size:")]
    assert found == 2 * [
        "image size: backbone 'random' was made for 16 pixels and reads images of "
        "`dataset.image_size=32` as they are"
    ]


def test_finished_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT))
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as caught:
        train(composed(tmp_path, *SEGMENT))
    for part in (str(tmp_path), "results.csv", "paths.output_dir", "paths.overwrite=true"):
        assert part in str(caught.value)
    assert contents(tmp_path) == before

    train(composed(tmp_path, *SEGMENT, "seed=1", "paths.overwrite=true"))
    assert row_of(tmp_path)["seed"] == "1"
    # Nothing of the earlier run is left to be taken for the new one's.
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 7
    assert open_run(tmp_path).config.seed == 1


@pytest.mark.parametrize("damage", ["", "dataset,seed\n", "miou\n", "miou\nmany\n"])
def test_damaged_results_are_told(damage: str, finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace(str(finished), str(folder))
    )
    assert is_finished(composed(folder, *SEGMENT)) == float(row_of(finished)["miou"])
    (folder / "results.csv").write_text(damage)
    with pytest.raises(DataError, match=r"results.csv' is damaged.*`paths.overwrite=true`"):
        is_finished(composed(folder, *SEGMENT))


def test_unfinished_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT))
    (tmp_path / "results.csv").unlink()
    with pytest.raises(ConfigError, match="run of something else: `seed` was 0, is 1"):
        train(composed(tmp_path, *SEGMENT, "seed=1"))
    train(composed(tmp_path, *SEGMENT))
    assert (tmp_path / "results.csv").is_file()


def test_one_process_at_a_time_has_a_folder(tmp_path: Path) -> None:
    with hold_run(tmp_path):
        before = contents(tmp_path)
        with pytest.raises(ConfigError, match=r"being computed by process \d+ on .*Wait for it"):
            train(composed(tmp_path, *SEGMENT))
        assert contents(tmp_path) == before
    train(composed(tmp_path, *SEGMENT))


class _PowerCutError(Exception):
    pass


@pytest.fixture
def checkpoints_every_3_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "Checkpoint", lambda path, *every: Checkpoint(path, 3))


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fails at the step put into the list; an empty list never fails."""
    fail_at: list[int] = []
    step = HeadTraining.training_step

    def cut(self: HeadTraining, batch, batch_index: int):
        if self.global_step in fail_at:
            raise _PowerCutError
        return step(self, batch, batch_index)

    monkeypatch.setattr(HeadTraining, "training_step", cut)
    return fail_at


PAPER = ("head.protocol=paper", "head.batch_size=384", "head.max_steps=12")
"""The three images have 768 labelled pixels: two steps an epoch, and the stop from step 8."""


@pytest.mark.parametrize(
    ("protocol", "overwrite", "saved", "cut"),
    [((), False, 3, 5), (PAPER, True, 9, 10)],
    ids=["fast", "paper"],
)
@pytest.mark.usefixtures("checkpoints_every_3_steps")
def test_interrupted_training_goes_on_to_the_same_weights(
    protocol: tuple[str, ...],
    overwrite: bool,
    saved: int,
    cut: int,
    tmp_path: Path,
    power_cut: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(BatchLossStopping, "patience", 0)
    train(composed(tmp_path / "whole", *SEGMENT, *protocol))

    power_cut.append(cut)
    first = ("paths.overwrite=true",) if overwrite else ()
    with pytest.raises(_PowerCutError):
        train(composed(tmp_path / "cut", *SEGMENT, *protocol, *first))
    checkpoint = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == saved
    # Step 8, the first after four epochs, counts for the early stop: it is the last one saved.
    assert checkpoint["stopping"]["best"].isfinite().all() == bool(protocol)
    assert not (tmp_path / "cut" / "results.csv").exists()
    power_cut.clear()
    # A second pass over the steps that were done would fail.
    power_cut.extend(range(saved))
    with caplog.at_level("INFO", logger="ddpmseg"):
        train(composed(tmp_path / "cut", *SEGMENT, *protocol))
    assert "resuming from" in caplog.text
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    assert not (tmp_path / "cut" / "last.ckpt").exists()


def test_members_that_stop_early_keep_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol 'paper': member 0 is made to stop after three steps, member 1 never."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    step = HeadTraining.training_step

    def watched(self: HeadTraining, batch, batch_index: int):
        seen[self.global_step] = self.head.member_state(0)
        return step(self, batch, batch_index)

    def update(self: BatchLossStopping, epoch: int, losses: torch.Tensor) -> torch.Tensor:
        stops = torch.tensor([len(seen) == 3, False]) & ~self.stopped
        self.stopped |= stops
        return stops

    monkeypatch.setattr(HeadTraining, "training_step", watched)
    monkeypatch.setattr(BatchLossStopping, "update", update)
    train(composed(tmp_path, *SEGMENT, *PAPER))
    assert sorted(seen) == list(range(12))
    kept = load_head(tmp_path / "head.safetensors")[0]
    assert isinstance(kept, TrainedHead)
    assert same(kept.member_state(0), seen[3])
    assert not same(seen[3], seen[4])


def test_paper_protocol_ends_once_all_members_have_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchLossStopping, "patience", 0)
    train(composed(tmp_path, *SEGMENT, *PAPER, "head.max_steps=400"))
    assert row_of(tmp_path)["protocol"] == "paper"
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    # Four whole epochs of two steps come first.
    assert 8 < max(steps) < 400


def test_a_machine_with_slurm_is_not_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning warns at every start where the command `srun` exists and did not start it."""
    command = tmp_path / "bin" / "srun"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Warning, match="srun"):
            SLURMEnvironment.detect()
        process_setup(str(tmp_path), "cpu", share_gpus=False)
        train(composed(tmp_path / "run", *SEGMENT))
    assert is_finished(composed(tmp_path / "run", *SEGMENT)) is not None
