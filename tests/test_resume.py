"""A run that is stopped at its end and repeated leaves the files of an undisturbed one."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from test_distill import draw_samples
from tiny_run import DISTILL, PRETRAIN, SEGMENT, composed, contents

from ddpmseg.heads.protocols import BatchLossStopping
from ddpmseg.runs import distill, pretrain, segment
from ddpmseg.runs.train import train
from ddpmseg.training.callbacks import Checkpoint
from ddpmseg.training.head import HeadTraining
from ddpmseg.training.pretrain import DiffusionPretraining

PAPER = ("head.protocol=paper", "head.batch_size=384", "head.max_steps=12")
"""The three images have 768 labelled pixels: two steps an epoch, and the stop from step 8."""
MEASURED = ("seconds_extract", "seconds_train", "seconds_test", "peak_rss_mb")


class _PowerCutError(Exception):
    pass


def cut(*_: object, **__: object) -> None:
    raise _PowerCutError


def results(folder: Path) -> dict[str, bytes]:
    """Every file of a run, without its log and what depends on the machine."""
    found = contents(folder)
    del found["train.log"]
    if "results.csv" in found:
        (row,) = csv.DictReader(io.StringIO(found["results.csv"].decode()))
        kept = {key: value for key, value in row.items() if key not in MEASURED}
        found["results.csv"] = repr(kept).encode()
    return found


def undisturbed(config: DictConfig, folder: Path) -> dict[str, bytes]:
    """The files of a run in `folder`, where nothing remains of it."""
    train(config.copy())
    found = results(folder)
    folder.rename(folder.with_name("undisturbed"))
    return found


def stopped(config: DictConfig) -> None:
    with pytest.raises(_PowerCutError):
        train(config.copy())


def test_a_pretraining_stopped_before_its_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    config = composed(folder, *PRETRAIN, "pretrain.sample_every=3")
    expected = undisturbed(config, folder)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_export", cut)
        stopped(config)
    assert "unet.json" not in contents(folder)
    train(config)
    found = results(folder)
    del found["last.ckpt"], expected["last.ckpt"]  # which holds seconds
    assert found == expected


def test_the_card_of_a_pretraining_does_not_depend_on_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 5, of which there is no checkpoint, but a line in `metrics.jsonl`."""
    folder = tmp_path / "run"
    config = composed(folder, *PRETRAIN)
    expected = undisturbed(config, folder)
    step = DiffusionPretraining.training_step

    def cut_at_5(self: DiffusionPretraining, batch, batch_index: int):
        return cut() if self.global_step == 5 else step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionPretraining, "training_step", cut_at_5)
        stopped(config)
    assert (folder / "metrics.jsonl").read_text().count("\n") == 5
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "pretrain/lo')  # as a full disk leaves it
    train(config)
    for name in ("unet.json", "unet.safetensors", "metrics.jsonl"):
        assert contents(folder)[name] == expected[name]


@pytest.fixture
def checkpoints_every_3_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "Checkpoint", lambda path, *_: Checkpoint(path, 3))


def stop_first_member(self: BatchLossStopping, epoch: int, losses: torch.Tensor) -> torch.Tensor:
    """Instead of `update`: the first member stops after its tenth step, the other never."""
    self.best[0] = self.best[0] + 1 if self.best[0].isfinite() else 0
    stops = torch.tensor([self.best[0] == 9, False])
    self.stopped |= stops
    return stops


def stop_all_at_9(self: BatchLossStopping, epoch: int, losses: torch.Tensor) -> torch.Tensor:
    self.best = self.best + 1 if self.best.isfinite().all() else torch.zeros_like(self.best)
    stops = self.best == 8
    self.stopped |= stops
    return stops


@pytest.mark.parametrize("update", [stop_first_member, stop_all_at_9])
@pytest.mark.usefixtures("checkpoints_every_3_steps")
def test_a_head_stopped_after_its_test(
    update: Callable[..., torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members that stopped early keep their weights, and no step is trained again."""
    monkeypatch.setattr(BatchLossStopping, "update", update)
    folder = tmp_path / "run"
    config = composed(folder, *SEGMENT, *PAPER)
    expected = undisturbed(config, folder)
    with monkeypatch.context() as patch:
        patch.setattr(segment, "write_per_class", cut)
        stopped(config)
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert len(saved["finished"]) == (1 if update is stop_first_member else 2)
    saved["callbacks"]["Checkpoint"]["seconds"] += 1000
    torch.save(saved, folder / "last.ckpt")
    monkeypatch.setattr(HeadTraining, "training_step", cut)
    train(config)
    assert results(folder) == expected
    # Together with those of the part before the stop.
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 1000 < float(row["seconds_train"]) < 1100


@pytest.mark.parametrize("call", ["load_segmenter", "write_per_class"])
def test_a_distillation_stopped_after_its_training(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = draw_samples(tmp_path / "samples")
    folder = tmp_path / "run"
    config = composed(folder, *DISTILL, f"segmenter.images={samples}")
    expected = undisturbed(config, folder)
    with monkeypatch.context() as patch:
        patch.setattr(distill, call, cut)
        stopped(config)
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    saved["callbacks"]["Checkpoint"]["seconds"] += 1000
    torch.save(saved, folder / "last.ckpt")
    train(config)
    assert results(folder) == expected
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 1000 < float(row["seconds_train"]) < 1100
