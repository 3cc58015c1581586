"""Loggers beside `metrics.jsonl`, in real runs without a network."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from tiny_run import SEGMENT, SWEEP, checked, composed, composed_sweep, resolved_sweep

from ddpmseg.errors import ConfigError
from ddpmseg.finished.open import open_run
from ddpmseg.runs import segment
from ddpmseg.runs.train import finished, train
from ddpmseg.tracking import loggers
from ddpmseg.training.callbacks import Checkpoint
from ddpmseg.training.head import HeadTraining


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_csv(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, "logger=csv"))
    assert any(row["test/miou"] for row in rows(tmp_path / "csv" / "metrics.csv"))


def test_csv_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are those of a run that nobody stopped, each once."""
    given = (*SEGMENT, "logger=csv")
    train(composed(tmp_path / "undisturbed", *given))
    monkeypatch.setattr(segment, "Checkpoint", lambda path, *_: Checkpoint(path, 3))
    step = HeadTraining.training_step

    def stopping(self: HeadTraining, *batch: object) -> object:
        if self.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *batch)  # pyright: ignore[reportArgumentType]

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(HeadTraining, "training_step", stopping)
        with pytest.raises(SystemExit):
            train(composed(folder, *given))
    table = folder / "csv" / "metrics.csv"
    assert [row["step"] for row in rows(table)] == ["0", "1", "2", "3", "4"]
    table.write_text(table.read_text() + "1,0.2")  # as a kill cuts it off
    train(composed(folder, *given))
    assert rows(table) == rows(tmp_path / "undisturbed" / "csv" / "metrics.csv")
    train(composed(folder, *given, "paths.overwrite=true"))
    assert rows(table) == rows(tmp_path / "undisturbed" / "csv" / "metrics.csv")


def test_loggers_add_up(tmp_path: Path) -> None:
    config = checked(composed(tmp_path, "logger=[csv,wandb]"))
    assert (config.logger.csv, config.logger.wandb) == (True, True)
    assert not config.logger.tensorboard
    assert not checked(composed(tmp_path)).logger.csv


@pytest.mark.parametrize("root", ["train", "sweep"])
def test_a_typo_is_noticed(tmp_path: Path, root: str) -> None:
    with pytest.raises(HydraException, match="wandbb"):
        composed(tmp_path, "logger.wandbb=true", root=root)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger.mode=later", r"`logger\.mode=later`: must be one of online, offline, disabled"),
        ("logger.runs=all", r"`logger\.runs=all`: must be one of sweep, cell"),
        ("logger.timeout=-1", r"`logger\.timeout=-1\.0`: must be at least 0 seconds"),
        ("logger.num_images=25", r"`logger\.num_images=25`: must lie in 0\.\.24"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(composed(tmp_path, *SEGMENT, override))
    with pytest.raises(ConfigError, match=message):
        resolved_sweep(composed_sweep(tmp_path, override))


@pytest.mark.parametrize("logger", ["csv", "[csv,wandb]"])
def test_a_sweep_has_nothing_for_a_csv_logger(tmp_path: Path, logger: str) -> None:
    with pytest.raises(ConfigError, match=r"`logger\.csv=true`: a sweep always writes cells\.csv"):
        resolved_sweep(composed(tmp_path, *SWEEP, f"logger={logger}", root="sweep"))


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"neither .* tensorboard and tensorboardX .* installed"):
        train(composed(tmp_path, *SEGMENT, "logger=tensorboard"))
    assert not list(tmp_path.iterdir())


def test_tensorboard(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, "logger=tensorboard"))
    events = [path.read_bytes() for path in (tmp_path / "tensorboard").glob("events.*")]
    assert any(b"test/miou" in content for content in events)


def test_loggers_decide_nothing(tmp_path: Path) -> None:
    """A run that is repeated with another logger is the same run; older settings are no matter."""
    score = train(composed(tmp_path, *SEGMENT))
    assert finished(composed(tmp_path, *SEGMENT, "logger=csv")) == score
    path = tmp_path / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["logger"] = {"kind": "none", "project": "mine"}
    path.write_text(json.dumps(settings))
    assert open_run(tmp_path).config.logger.project == "mine"
    assert finished(composed(tmp_path, *SEGMENT)) == score


def test_the_environment_of_wandb_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODE", "offline"), ("PROJECT", "ours"), ("ENTITY", "us")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = checked(composed(tmp_path, "logger=wandb")).logger
    assert (logger.mode, logger.project, logger.entity) == ("offline", "ours", "us")
    logger = checked(composed(tmp_path, "logger=wandb", "logger.mode=online")).logger
    assert logger.mode == "online"
