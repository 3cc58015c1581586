"""`task=distill` from end to end at tiny size: what it trains on, chooses, leaves and refuses."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file
from tiny_run import CONF, DISTILL, checked, composed, contents
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from wandb_files import recorded

from ddpmseg.__main__ import main
from ddpmseg.composition.plan import estimate
from ddpmseg.config import SegmenterConfig, run_key
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.labelled import Ponies
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import ConfigError, DataError, TrainingError, UserError
from ddpmseg.finished.open import open_run
from ddpmseg.metrics.segmentation import SegmentationScores
from ddpmseg.multiruns.gather import _report_runs
from ddpmseg.records.labelled_samples import labelled_samples
from ddpmseg.records.results import COLUMNS
from ddpmseg.records.samples import SampleFolder, name_of
from ddpmseg.runs.epochs import EpochScores
from ddpmseg.runs.predict import predict
from ddpmseg.runs.train import finished as finished_score
from ddpmseg.runs.train import train
from ddpmseg.sampling.label import load_labeller
from ddpmseg.segmenters.deeplab import ARCHITECTURES, DeepLab
from ddpmseg.segmenters.export import load_segmenter
from ddpmseg.training.distill import SegmenterTesting, SegmenterTraining

PONIES = load_class_table("ponies")
UNCERTAINTY = [0.3, 0.1, 0.5, 0.2, 0.4]
"""Of the five images, so that the third is the one that is left out."""


def draw_samples(path: Path, num: int = 5) -> Path:
    """Scenes in the place of a network's images, with their own masks for an ensemble's labels."""
    folder = SampleFolder(path)
    folder.claim({"seed": 0}, {"vote": "hard"})
    for index in range(num):
        image, mask = draw_pony(index, "pretrain", 0, 16)
        folder.write_image(index, torch.from_numpy(image).permute(2, 0, 1))
        folder.write_mask(index, mask, PONIES)
    folder.write_uncertainties(dict(zip(map(name_of, range(num)), UNCERTAINTY, strict=False)))
    return path


def tiny_deeplab(num_classes: int, **_: object) -> DeepLabV3:
    """torchvision's head, which is a tenth of its smallest network, on a body of one layer."""
    layers = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return DeepLabV3(IntermediateLayerGetter(layers, {"2": "out"}), DeepLabHead(16, num_classes))


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    kind = replace(ARCHITECTURES["mobilenet"], build=tiny_deeplab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", kind)
        yield


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_samples(tmp_path_factory.mktemp("samples") / "ddpm")


@pytest.fixture(scope="module")
def request_of_run(samples: Path) -> DictConfig:
    """A tiny run on these images, composed once for all tests."""
    overrides = ("segmenter.architecture=tiny", f"segmenter.images={samples}")
    # A single map, as of a job of a curve: it is not read here.
    unread = ("features.blocks=[6]", "features.timesteps=[50]")
    return composed(samples, *DISTILL, *overrides, *unread)


def changed(request: DictConfig, folder: Path, *overrides: str) -> DictConfig:
    """With these overrides and `folder` as the output folder."""
    given = OmegaConf.from_dotlist([*overrides, f"paths.output_dir={folder}"])
    merged = OmegaConf.merge(request, given)
    assert isinstance(merged, DictConfig)
    return merged


@pytest.fixture(scope="module")
def finished(request_of_run: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(changed(request_of_run, folder, "segmenter.keep_epochs=true"))
    return folder


def row_of(folder: Path, name: str = "results.csv") -> dict[str, str]:
    return rows_of(folder, name)[0]


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_files_of_a_run(finished: Path) -> None:
    assert set(contents(finished)) == {
        "config.yaml",
        "confusion.csv",
        "epochs.csv",
        "epochs/epoch_001.safetensors",
        "epochs/epoch_002.safetensors",
        "masks/test_00000.npy",
        "masks/test_00000.png",
        "masks/test_00001.npy",
        "masks/test_00001.png",
        "metrics.jsonl",
        "overlays.png",
        "per_class.csv",
        "record.json",
        "results.csv",
        "segmenter.safetensors",
        "train.log",
    }


def test_row_of_results(finished: Path) -> None:
    row = row_of(finished)
    assert tuple(row) == COLUMNS
    assert (row["dataset"], row["backbone"]) == ("ponies", "dataset_ddpm")
    for empty in ("checkpoint_sha256", "blocks", "timesteps", "head", "protocol", "members"):
        assert row[empty] == ""
    assert (row["seed"], row["num_labelled"], row["num_test"]) == ("0", "3", "2")
    assert 0 <= float(row["uncertainty"]) <= np.log(11)
    predicted = np.stack([np.load(finished / "masks" / f"test_{i:05d}.npy") for i in range(2)])
    true = np.stack([draw_pony(scene, "test", 0, 16)[1] for scene in range(2)])
    assert float(row["pixel_accuracy"]) == pytest.approx((predicted == true).mean(), abs=1e-9)
    overlaps = [((predicted == k) & (true == k)).sum() for k in range(11)]
    unions = [((predicted == k) | (true == k)).sum() for k in range(11)]
    ious = [overlap / max(1, union) for overlap, union in zip(overlaps, unions, strict=True)]
    assert float(row["miou"]) == pytest.approx(np.mean(ious), abs=1e-9)


def test_every_epoch_is_scored_on_the_photographs_and_the_best_is_tested(finished: Path) -> None:
    rows = rows_of(finished, "epochs.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    photographs = Ponies("ponies", "ponies", 16, num_labelled=3, tiny_annotations="keep").train
    for row in rows:
        network, facts = load_segmenter(finished / f"epochs/epoch_00{row['epoch']}.safetensors")
        assert facts["epoch"] == int(row["epoch"])
        counts = SegmentationScores(11, PONIES.ignore_label)
        for photograph in photographs:
            counts.update(network.segment(photograph.image[None]).masks[0], photograph.mask)
        scores = counts.compute()
        assert float(row["miou"]) == pytest.approx(float(scores.miou), abs=0.01)
        accuracy = float(scores.pixel_accuracy)
        assert float(row["pixel_accuracy"]) == pytest.approx(accuracy, abs=0.01)
    best = max(rows, key=lambda row: float(row["miou"]))["epoch"]
    tested = weights(finished / "segmenter.safetensors")
    assert same(tested, weights(finished / f"epochs/epoch_00{best}.safetensors"))
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/miou" in line] == [2, 4]
    assert [line["step"] for line in lines if "train/loss" in line][:4] == [1, 2, 3, 4]


def test_of_equal_epochs_the_first_is_the_best(tmp_path: Path) -> None:
    epochs = EpochScores(tmp_path, list, PONIES, {})
    epochs.rows = [{"epoch": e, "miou": m} for e, m in ((1, 0.2), (2, 0.5), (3, 0.5), (4, 0.4))]
    assert epochs.best == 2
    assert epochs.path_of_best == tmp_path / "epochs" / "epoch_002.safetensors"


def test_recorded_configuration_loads_as_the_same_objects(
    finished: Path, request_of_run: DictConfig
) -> None:
    assert open_run(finished, ("distill",)).config == checked(changed(request_of_run, finished))


def test_batches_are_of_the_samples_each_once_an_epoch(samples: Path) -> None:
    config = SegmenterConfig(batch_size=2, filter_out=0, images=str(samples), num_epochs=3)
    module = SegmenterTraining(
        DeepLab("tiny", 11), labelled_samples(config, PONIES, 16), PONIES, config, 0
    )
    assert (module.steps_per_epoch, module.num_steps) == (2, 6)
    scenes = [draw_pony(index, "pretrain", 0, 16) for index in range(5)]
    order = []
    for step in range(6):
        for image, mask in zip(*module.batch(step), strict=True):
            (scene,) = (i for i in range(5) if np.array_equal(image.permute(1, 2, 0), scenes[i][0]))
            assert np.array_equal(mask, scenes[scene][1])
            order.append(scene)
    epochs = [tuple(order[start : start + 4]) for start in (0, 4, 8)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len(set(epochs)) > 1


def test_the_ignore_label_counts_where_it_is_a_class(samples: Path) -> None:
    config = SegmenterConfig(batch_size=2, filter_out=0, images=str(samples))
    images, network = labelled_samples(config, PONIES, 16), DeepLab("tiny", 11)
    for name, expected in (("horse_21", 255), ("bedroom_28", -100)):
        module = SegmenterTraining(network, images, load_class_table(name), config, 0)
        assert module.ignore_index == expected


def left(folder: Path, **settings: object) -> list[int]:
    config = SegmenterConfig(images=str(folder), **settings)  # pyright: ignore
    return [int(name) for name in labelled_samples(config, PONIES, 16).names]


def test_the_least_and_the_most_certain_are_left_out(samples: Path, tmp_path: Path) -> None:
    assert left(samples, filter_out=0) == [0, 1, 2, 3, 4]
    assert left(samples, filter_out=0.4) == [0, 1, 3]
    assert left(samples, filter_out=0.4, drop_certain=1) == [0, 3, 4]
    assert left(samples, filter_out=0.4, drop_certain=2) == [0, 2, 4]
    assert left(samples, filter_out=0.5, num_images=4) == [1, 3]
    # By people: nothing is known of how certain they were.
    other = draw_samples(tmp_path / "by_people")
    (other / "uncertainty.csv").unlink()
    assert left(other, filter_out=0) == [0, 1, 2, 3, 4]
    with pytest.raises(
        DataError, match=r"5 of the images are, such as '000000\.png'.*filter_out=0"
    ):
        left(other, filter_out=0.2)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in `segmenter\.images=.*ddpmseg sample"):
        left(tmp_path / "empty")
    unlabelled = draw_samples(tmp_path / "unlabelled")
    (unlabelled / "000003.npy").unlink()
    with pytest.raises(DataError, match=r"1 of the images.*'000003\.png'.*--labels RUN"):
        left(unlabelled)
    (unlabelled / "000003.png").unlink()
    with pytest.raises(ConfigError, match=r"num_images=9`.*holds 4 images"):
        left(unlabelled, num_images=9)
    with pytest.raises(ConfigError, match=r"drop_certain=3`.*leaves out 2 of 4.*0\.\.2"):
        left(unlabelled, filter_out=0.5, drop_certain=3)


class _PowerCutError(Exception):
    pass


@pytest.mark.parametrize("saved", [2, 3], ids=["after an epoch", "within an epoch"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    saved: int,
    finished: Path,
    request_of_run: DictConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = changed(request_of_run, tmp_path, "segmenter.checkpoint_every=3")
    step, cut_at = SegmenterTraining.training_step, [saved]

    def cut(self: SegmenterTraining, batch, batch_index: int):
        if self.global_step in cut_at:
            raise _PowerCutError
        return step(self, batch, batch_index)

    monkeypatch.setattr(SegmenterTraining, "training_step", cut)
    with pytest.raises(_PowerCutError):
        train(every.copy())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == saved
    assert not (tmp_path / "results.csv").exists()
    # A second pass over the steps that were done would fail.
    cut_at[:] = range(saved)
    train(every.copy())
    names = ("segmenter.safetensors",)
    assert all(same(weights(tmp_path / name), weights(finished / name)) for name in names)
    assert (tmp_path / "epochs.csv").read_text() == (finished / "epochs.csv").read_text()
    assert row_of(tmp_path)["miou"] == row_of(finished)["miou"]
    assert not {"last.ckpt", "epochs"} & {path.name for path in tmp_path.iterdir()}


def test_a_run_that_was_cut_off_in_its_test_is_not_trained_again(
    finished: Path, request_of_run: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Left by a run that was replaced.
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "epoch_009.safetensors").touch()

    def cut(*_: object) -> None:
        raise _PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(SegmenterTesting, "segmentation", cut)
        with pytest.raises(_PowerCutError):
            train(changed(request_of_run, tmp_path))
    assert len(list((tmp_path / "epochs").iterdir())) == 2
    monkeypatch.setattr(SegmenterTraining, "training_step", cut)
    train(changed(request_of_run, tmp_path))
    assert row_of(tmp_path)["miou"] == row_of(finished)["miou"]
    assert finished_score(changed(request_of_run, tmp_path)) == float(row_of(finished)["miou"])
    with pytest.raises(ConfigError, match=r"finished run \(results\.csv\)"):
        train(changed(request_of_run, tmp_path))


def test_a_loss_that_is_no_number_ends_the_run(request_of_run: DictConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"at step \d.*segmenter\.learning_rate"):
        train(changed(request_of_run, tmp_path, "segmenter.learning_rate=1e38"))


def test_predict_equals_the_mask_of_the_run(finished: Path, tmp_path: Path) -> None:
    Image.fromarray(draw_pony(1, "test", 0, 16)[0]).save(tmp_path / "pony.png")
    (mask,) = predict([tmp_path / "pony.png"], finished, tmp_path / "out", "cpu")
    np.testing.assert_array_equal(np.load(mask), np.load(finished / "masks" / "test_00001.npy"))


def test_runs_stand_in_the_tables(
    finished: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", str(finished), str(finished_run)]) == 0
    table = capsys.readouterr().out
    # Trained from random weights it is none of the paper's methods, nor is a random backbone.
    assert "| dataset_ddpm | ours (1 run) |" in table
    assert "| random | ours (1 run) |" in table
    assert main(["compare", str(finished), str(finished_run)]) == 0
    ranked = capsys.readouterr().out
    assert "distill" in ranked
    assert "segment" in ranked


def test_a_multirun_draws_no_curves_of_them(finished: Path, tmp_path: Path) -> None:
    _report_runs([finished], tmp_path, "train.py -m")
    assert not list(tmp_path.iterdir())


def test_what_needs_a_head_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"is a run of task=distill\. Name a run of task=segment"):
        load_labeller(finished, 16, tmp_path, torch.device("cpu"))
    assert main(["export", str(finished), str(tmp_path / "out")]) == 2
    assert "is a run of task=distill" in capsys.readouterr().err
    assert main(["robustness", str(finished), "--output", str(tmp_path / "r")]) == 2
    assert "task=distill, which has no head" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="only what task=segment takes is estimated"):
        estimate(open_run(finished, ("distill",)).config)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("segmenter.images=null", r"`segmenter\.images` is null.*ddpmseg sample"),
        ("segmenter.images=nowhere", r"images=nowhere`: there is no such folder"),
        ("segmenter.architecture=resnet18", "must be one of resnet101, resnet50, mobilenet"),
        ("segmenter.checkpoint=no.pth", r"no file 'no\.pth'.*mobilenet_v3_large.*random"),
        ("segmenter.batch_size=1", "must be at least 2"),
        ("segmenter.batch_size=5", "4 images are left after the filter"),
        ("segmenter.num_epochs=0", "must be at least 1"),
        ("segmenter.filter_out=1", "must be a share"),
        ("segmenter.filter_out=nan", "must be a finite number"),
        ("segmenter.drop_certain=-1", "must be at least 0"),
        ("segmenter.learning_rate=0", "must be above 0"),
        ("trainer.devices=2", "task=distill uses one device"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    override: str, says: str, request_of_run: DictConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        train(changed(request_of_run, tmp_path / "out", override))
    assert not list(tmp_path.iterdir())


def test_runs_are_named_by_what_is_computed(request_of_run: DictConfig, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        place = compose("train", ["task=distill"]).paths.output_dir
    assert place.startswith("outputs/distill/ponies_dataset_ddpm_")

    def key(*overrides: str) -> str:
        return run_key(changed(request_of_run, tmp_path, *overrides))

    for how in ("segmenter.num_workers=2", "segmenter.keep_epochs=true", "head.members=3"):
        assert key(how) == key()
    assert key("segmenter.filter_out=0.3") != key()


def test_wandb_shows_a_run(request_of_run: DictConfig, tmp_path: Path) -> None:
    logging = ("logger.wandb=true", "logger.mode=offline", "segmenter.num_epochs=1")
    train(changed(request_of_run, tmp_path, *logging))
    (run,) = recorded(tmp_path)
    assert run.job_type == "distill"
    assert run.tags == {"ponies", "dataset_ddpm", "tiny"}
    assert run.config["segmenter"]["filter_out"] == 0.2
    assert not {"backbone", "head", "features"} & set(run.config)
    assert run.summary["test/miou"] == pytest.approx(float(row_of(tmp_path)["miou"]), abs=1e-6)
    assert any("val/miou" in line for line in run.history)
    assert any(name.startswith("segmenter-") for name in run.artifacts)
