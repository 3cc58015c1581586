"""The door to finished work: runs of earlier versions open, what does not fit is refused."""

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_run import CONF, SEGMENT, composed

from ddpmseg.__main__ import main
from ddpmseg.errors import CheckpointError, ConfigError, DataError
from ddpmseg.finished.open import FinishedRun, FinishedSweep, open_finished, open_run, open_sweep
from ddpmseg.io.record_file import FORMAT
from ddpmseg.runs.train import train

LEGACY = Path(__file__).parent / "legacy"
"""Finished work of version 0.1; its README.md holds the commands and the numbers."""
CPU = ("--accelerator", "cpu")


@pytest.fixture
def legacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished work to work in: records name folders relative to it."""
    shutil.copytree(LEGACY, tmp_path / "legacy")
    monkeypatch.chdir(tmp_path / "legacy")
    return tmp_path / "legacy"


@pytest.fixture
def command(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command; returns what it prints and logs."""

    def run(*words: str, status: int = 0) -> str:
        caplog.clear()
        caplog.set_level(logging.INFO)
        assert main(list(words)) == status
        printed = capsys.readouterr()
        return printed.out + printed.err + caplog.text

    return run


@pytest.mark.parametrize(
    ("folder", "task", "miou"),
    [
        ("segment", "segment", 0.080636),
        ("segment_32", "segment", 0.074772),
        ("distill", "distill", 0.067116),
        ("multirun/outputs/segment/ponies_random_88195064", "segment", 0.072644),
        ("multirun/outputs/segment/ponies_random_a93d826f", "segment", 0.068066),
    ],
)
def test_runs_of_an_earlier_version_open(legacy: Path, folder: str, task: str, miou: float) -> None:
    run = open_run(legacy / folder, (task,))
    assert run.record == {}
    assert float(run.results["miou"]) == miou
    if task == "segment":
        assert run.head.num_classes == 11
        assert run.classes.names[:2] == ("background", "body")


def test_a_pretraining_of_an_earlier_version_opens(legacy: Path) -> None:
    run = open_run(legacy / "pretrain", ("pretrain",))
    assert run.config.pretrain.num_steps == 20


def test_a_sweep_of_an_earlier_version_opens(legacy: Path) -> None:
    sweep = open_finished(legacy / "sweep")
    assert isinstance(sweep, FinishedSweep)
    assert sorted(sweep.store.done()) == [(1, 5, 0), (1, 50, 0), (2, 5, 0), (2, 50, 0)]
    assert sweep.config.sweep.controls == ["pixels", "random"]


def test_an_old_head_predicts_as_it_did(legacy: Path, command: Callable[..., str]) -> None:
    command(
        "predict", "pony.png", "--run", "segment", "--output-dir", "out", "--accelerator", "cpu"
    )
    theirs, ours = np.load("segment/masks/test_00000.npy"), np.load("out/pony.npy")
    assert (theirs == ours).mean() > 0.99  # the last digits depend on the processor


def numbers(table: str) -> list[list[float]]:
    with Path(table).open(newline="") as file:
        return [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]


def test_an_old_sweep_is_reported_and_selected_from(
    legacy: Path, command: Callable[..., str]
) -> None:
    before = numbers("sweep/cells.csv")
    assert "Best cell: block 2 at t = 50 with 6.8 % mIoU" in command("report", "sweep")
    assert numbers("sweep/cells.csv") == [pytest.approx(row, abs=1e-6) for row in before]
    assert "proposed      blocks [1], t = [50]: 1 forward passes" in command("select", "sweep")


def test_an_old_multirun_is_listed(legacy: Path, command: Callable[..., str]) -> None:
    text = command("jobs", "multirun")
    assert "2 jobs: 2 done, 0 skipped, 0 failed" in text
    assert "0.072644" in text


def test_old_runs_are_compared(legacy: Path, command: Callable[..., str]) -> None:
    text = command("compare", "multirun")
    assert [line.split()[:3] for line in text.splitlines()[2:4]] == [
        ["1", "[1]", "7.3"],
        ["2", "[2]", "6.8"],
    ]


def test_an_old_head_is_exported(legacy: Path, command: Callable[..., str]) -> None:
    command("export", "segment_32", "exported")
    theirs = sorted(path.name for path in Path("export").iterdir())
    assert sorted(path.name for path in Path("exported").iterdir()) == theirs


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_run_records_its_kind_its_format_and_its_classes(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert (record["format"], record["kind"]) == (FORMAT, "segment")
    assert record["classes"]["name"] == "ponies"
    assert len(record["classes"]["classes"]) == 11


def test_a_run_needs_no_class_table_beside_it(finished: Path) -> None:
    """As on another machine, where the file of `dataset.classes` is not."""
    settings = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(settings.replace("classes: ponies", "classes: gone.yaml"))
    assert open_run(finished).classes.names[1] == "body"


def test_records_of_a_later_version_are_refused(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    record |= {"format": FORMAT + 1, "package": "9.0"}
    (finished / "record.json").write_text(json.dumps(record))
    with pytest.raises(
        ConfigError, match=rf"in format {FORMAT + 1} of ddpmseg 9\.0; this is ddpmseg"
    ):
        open_finished(finished)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"format": "x"}'])
def test_a_damaged_record_is_named(finished: Path, content: str) -> None:
    (finished / "record.json").write_text(content)
    with pytest.raises(ConfigError, match=r"record\.json' is damaged .* Repeat the run"):
        open_finished(finished)


def test_a_head_for_other_classes_is_refused(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    record["classes"]["classes"][3]["name"] = "wing"
    (finished / "record.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="was trained for the classes background, body"):
        _ = open_run(finished).head


def test_what_is_no_finished_run_is_named(finished: Path, legacy: Path) -> None:
    (finished / "results.csv").unlink()
    with pytest.raises(DataError, match=r"is unfinished: there is no results\.csv\. Repeat"):
        open_run(finished)
    with pytest.raises(ConfigError, match="is the folder of a multirun: name one of its runs"):
        open_run(legacy / "multirun")
    with pytest.raises(ConfigError, match="is the folder of a sweep"):
        open_run(legacy / "sweep")
    with pytest.raises(ConfigError, match="is not the folder of a sweep"):
        open_sweep(legacy / "segment")
    with pytest.raises(ConfigError, match=r"task=pretrain. Name a run of task=segment"):
        open_run(legacy / "pretrain")


def test_every_program_refuses_a_head_whose_network_has_other_weights(
    legacy: Path, command: Callable[..., str]
) -> None:
    """predict and the labels of sample once drew masks with whatever weights lay at the path."""
    overrides = (*SEGMENT, "backbone=guided_diffusion_64", "head.max_steps=2")
    tiny = (
        *("backbone.unet.channel_mult='1'", "dataset.image_size=16", "features.blocks=[1]"),
        "backbone.checkpoint=pretrain/unet.safetensors",
    )
    train(composed(Path("run"), *overrides, *tiny))
    weights = load_file("pretrain/unet.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, "pretrain/unet.safetensors")
    refused = (
        "the weights of 'guided_diffusion_64' are not those on whose features the head of 'run'"
    )
    predict = ("predict", "pony.png", "--run", "run", *CPU)
    assert refused in command(*predict, status=2)
    sample = (
        *("sample", "guided_diffusion_64", *(text for text in overrides if ".unet." in text)),
        *(tiny[0], tiny[-1], "trainer.accelerator=cpu", "--num", "1", "--steps", "2"),
        *("--output", "drawn", "--labels", "run", "--config-dir", str(CONF)),
    )
    assert refused in command(*sample, status=2)


def test_an_opened_run_says_what_it_is(finished: Path) -> None:
    run = open_finished(finished)
    assert isinstance(run, FinishedRun)
    assert run.config.features.blocks == [1, 2]
    assert run.results["num_test"] == "2"


@pytest.mark.parametrize("name", ["multirun.json", "0/job.json"])
def test_a_damaged_record_of_a_multirun_is_named(
    legacy: Path, command: Callable[..., str], name: str
) -> None:
    record = json.loads(Path("multirun", name).read_text())
    for content in (record | {"unknown": 1}, record | {"format": FORMAT + 1}, [1]):
        Path("multirun", name).write_text(json.dumps(content))
        assert f"error: 'multirun/{name}' is" in command("jobs", "multirun", status=2)
