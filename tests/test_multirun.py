"""Many jobs at once: what fails stops no other, what is done is skipped, one report of them all."""

import csv
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from tiny_run import CONF, ROOT, SEGMENT, SWEEP, composed, composed_sweep, contents

from ddpmseg import config as schemas
from ddpmseg.apps.jobs import Job, Program, run
from ddpmseg.apps.multirun import gather
from ddpmseg.apps.sweep import sweep
from ddpmseg.apps.train import finished, train
from ddpmseg.errors import ConfigError
from ddpmseg.tracking.cells import CellStore

LONE = ("head.members=1", "head.max_steps=3")
SMALL = tuple(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps")))
HEADER = ["job", "overrides", "state", "miou", "seconds", "folder", "error"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def hydra_job(tmp_path: Path) -> Iterator[Callable[[int | None], DictConfig]]:
    """What Hydra hands to an entry point: a job of a multirun with this number, or a single run."""

    def prepare(number: int | None) -> DictConfig:
        schemas.register()
        given = [*SMALL, f"paths.output_dir={tmp_path / 'run'}"]
        if number is not None:
            given.append(f"+hydra.job.num={number}")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", given, return_hydra_config=True)
        (tmp_path / "job").mkdir(exist_ok=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(tmp_path / "job")
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    yield prepare
    HydraConfig.instance().cfg = None


def program(work: Callable[[DictConfig, bool], float | None], done: float | None = None) -> Program:
    return Program("train", work, lambda cfg: done)


def test_single_run_prints_what_is_wrong(hydra_job, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(cfg: DictConfig, in_multirun: bool) -> None:
        assert not in_multirun
        raise ConfigError("`seed=7`: too large.")

    with pytest.raises(SystemExit, match="2"):
        run(program(refuse, done=0.5), hydra_job(None))
    assert capsys.readouterr().err == "error: `seed=7`: too large.\n"


def test_single_run_hides_no_bug(hydra_job, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(program(lambda cfg, in_multirun: 1 / 0), hydra_job(None))
    assert run(program(lambda cfg, in_multirun: 0.25), hydra_job(None)) == 0.25
    assert not list((tmp_path / "job").iterdir())


def test_job_that_succeeds(hydra_job, tmp_path: Path) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> float:
        assert in_multirun
        logging.getLogger("ddpmseg").warning("at work")
        return 0.25

    assert run(program(work), hydra_job(3)) == 0.25
    job = Job.read(tmp_path / "job" / "job.json")
    assert (job.number, job.program, job.state, job.miou, job.error) == (
        3,
        "train",
        "done",
        0.25,
        "",
    )
    assert job.folder == str(tmp_path / "run")
    assert "backbone=random" in job.overrides
    assert "WARNING at work" in (tmp_path / "job" / "job.log").read_text()


@pytest.mark.parametrize("error", [ConfigError("no such block"), RuntimeError("out of memory")])
def test_job_that_fails_leaves_its_traceback(hydra_job, tmp_path: Path, error: Exception) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> None:
        raise error

    score = run(program(work), hydra_job(0))
    assert score is not None
    assert score != score
    job = Job.read(tmp_path / "job" / "job.json")
    assert (job.state, job.miou) == ("failed", None)
    assert job.error == f"{type(error).__name__}: {error}"
    log = (tmp_path / "job" / "job.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert log.rstrip().endswith(f"{type(error).__name__}: {error}") or str(error) in log


def test_job_that_is_finished_is_skipped(hydra_job, tmp_path: Path) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> None:
        pytest.fail("this must not be reached")

    assert run(program(work, done=0.5), hydra_job(1)) == 0.5
    job = Job.read(tmp_path / "job" / "job.json")
    assert (job.state, job.miou) == ("skipped", 0.5)


def test_job_that_was_interrupted_leaves_no_record(hydra_job, tmp_path: Path) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(program(work), hydra_job(1))
    assert not (tmp_path / "job" / "job.json").exists()


def test_finished_run_is_recognised_by_its_settings(tmp_path: Path) -> None:
    given = (*SMALL, *LONE, "features.blocks=[1]", "features.timesteps=[5]")
    assert finished(composed(tmp_path, *given)) is None
    score = train(composed(tmp_path, *given))
    assert finished(composed(tmp_path, *given)) == pytest.approx(score, abs=1e-6)
    for other in ("seed=1", "head.max_steps=4", "paths.overwrite=true"):
        assert finished(composed(tmp_path, *given, other)) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two finished runs of single maps, one of another seed, and one of two timesteps."""
    folder = tmp_path_factory.mktemp("runs")
    choices = {
        "b1": ("features.blocks=[1]", "features.timesteps=[5]"),
        "b2": ("features.blocks=[2]", "features.timesteps=[5]"),
        "linear": ("features.blocks=[2]", "features.timesteps=[5]", "head.hidden=[]"),
        "both": ("features.blocks=[2]", "features.timesteps=[5,50]"),
    }
    for name, choice in choices.items():
        train(composed(folder / name, *SMALL, *LONE, *choice))
    return {name: folder / name for name in choices}


def jobs_of(folder: Path, *found: tuple[str, Path | None], program: str = "train") -> None:
    """Records of jobs: their state and the folder of their run."""
    for number, (state, run_folder) in enumerate(found):
        place = folder / str(number)
        place.mkdir(parents=True)
        overrides = ["backbone=random", f"features.blocks=[{number}]"]
        error = "ConfigError: no block 9" if state == "failed" else ""
        miou = None if state == "failed" else 0.5
        Job(number, overrides, program, state, str(run_folder), miou, 1.5, error).write(place)


def test_jobs_are_told_and_their_cells_reported(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs_of(tmp_path, ("done", runs["b1"]), ("failed", None), ("skipped", runs["b2"]))
    with caplog.at_level(logging.INFO):
        assert gather(tmp_path, "python train.py -m") == 1
    table = rows(tmp_path / "jobs.csv")
    assert list(table[0]) == HEADER
    assert [(row["job"], row["state"]) for row in table] == [
        ("0", "done"),
        ("1", "failed"),
        ("2", "skipped"),
    ]
    assert [row["miou"] for row in table] == ["0.500000", "", "0.500000"]
    assert table[1]["error"] == "ConfigError: no block 9"
    assert table[0]["overrides"] == "backbone=random features.blocks=[0]"
    assert f"(see {tmp_path / '1' / 'job.log'})" in caplog.text
    assert "3 jobs: 1 done, 1 skipped, 1 failed" in caplog.text
    cells = rows(tmp_path / "cells.csv")
    assert [(row["block"], row["timestep"], row["seed"]) for row in cells] == [
        ("1", "5", "0"),
        ("2", "5", "0"),
    ]
    for cell, name in zip(cells, ("b1", "b2"), strict=True):
        (result,) = rows(runs[name] / "results.csv")
        assert cell["miou"] == result["miou"]
        assert cell["miou_present"] == result["miou_present"]
        parts = [float(result[f"seconds_{part}"]) for part in ("extract", "train", "test")]
        assert float(cell["seconds"]) == pytest.approx(sum(parts), abs=1e-3)
    assert "python train.py -m" in (tmp_path / "report.html").read_text()


def test_runs_that_differ_otherwise_have_reports_of_their_own(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = [("done", runs[name]) for name in ("b1", "linear", "both", "b2")]
    jobs_of(tmp_path, *found)
    with caplog.at_level(logging.INFO):
        assert gather(tmp_path, "python train.py -m") == 0
    assert f"'{runs['both']}' reads out several maps at once: it is in no curve" in caplog.text
    tables = sorted(tmp_path.glob("*/cells.csv"))
    assert [path.parent.name for path in tables] == ["ponies_random_0", "ponies_random_1"]
    assert [[row["block"] for row in rows(path)] for path in tables] == [["1", "2"], ["2"]]
    assert not (tmp_path / "report.html").exists()


def test_jobs_that_all_failed(tmp_path: Path) -> None:
    jobs_of(tmp_path, ("failed", None), ("failed", None))
    assert gather(tmp_path, "python train.py -m") == 2
    assert len(rows(tmp_path / "jobs.csv")) == 2
    assert not (tmp_path / "cells.csv").exists()


def test_jobs_of_a_sweep_are_reported_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for timestep in (5, 50):
        sweep(composed_sweep(folder, f"sweep.timesteps=[{timestep}]"), True)
    jobs_of(tmp_path / "multi", ("done", folder), ("done", folder), program="sweep")
    assert gather(tmp_path / "multi", "python sweep.py -m") == 0
    assert len(rows(folder / "cells.csv")) == 4
    assert (folder / "report.html").is_file()
    assert {path.name for path in (tmp_path / "multi").iterdir()} == {"0", "1", "jobs.csv"}


def launched(program: str, cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A multirun in an empty folder, so that all its paths are the default ones."""
    command = [sys.executable, str(ROOT / program), "-m", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.timeout(400)
def test_multirun_with_a_bad_block(tmp_path: Path) -> None:
    choices = ("features.blocks=[1],[9]", "features.timesteps=[5],[50]")
    command = (*SMALL, *LONE, *choices)
    first = launched("train.py", tmp_path, *command)
    assert first.returncode == 1, first.stderr
    (folder,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert folder.name.startswith("train_")
    jobs = rows(folder / "jobs.csv")
    assert [job["state"] for job in jobs] == ["done", "done", "failed", "failed"]
    assert "4 jobs: 2 done, 0 skipped, 2 failed" in first.stderr
    for number in (2, 3):
        log = (folder / str(number) / "job.log").read_text()
        assert "Traceback (most recent call last)" in log
        assert "block 9" in log
        assert "block 9" in jobs[number]["error"]
    assert "Traceback" not in first.stderr
    cells = rows(folder / "cells.csv")
    assert [(row["block"], row["timestep"]) for row in cells] == [("1", "5"), ("1", "50")]
    assert (folder / "report.html").is_file()
    kept = contents(tmp_path / "outputs" / "segment")

    again = launched("train.py", tmp_path, *command)
    assert again.returncode == 1, again.stderr
    states = [job["state"] for job in rows(folder / "jobs.csv")]
    assert states == ["skipped", "skipped", "failed", "failed"]
    assert rows(folder / "cells.csv") == cells
    assert contents(tmp_path / "outputs" / "segment") == kept


@pytest.mark.timeout(400)
def test_multirun_of_a_sweep_ends_in_one_report(tmp_path: Path) -> None:
    given = [override for override in SWEEP if not override.startswith("sweep.timesteps")]
    done = launched("sweep.py", tmp_path, *given, "sweep.timesteps=[5],[50]")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "sweep").iterdir()
    keys = [(row["block"], row["timestep"]) for row in rows(folder / "cells.csv")]
    assert keys == [("1", "5"), ("1", "50"), ("2", "5"), ("2", "50")]
    assert (folder / "report.html").is_file()
    assert len(CellStore(folder).read("pixels")) == 1
    assert done.stderr.count("report in ") == 1
    (multi,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert [job["state"] for job in rows(multi / "jobs.csv")] == ["done", "done"]
