"""Many jobs at once: what fails stops no other, what is done is skipped, one report of them all."""

import csv
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from tiny_run import (
    CONF,
    PRETRAIN,
    ROOT,
    SEGMENT,
    SWEEP,
    composed,
    composed_sweep,
    contents,
    multirun,
)
from waiting import wait_until

from ddpmseg import config as schemas
from ddpmseg.__main__ import main
from ddpmseg.errors import ConfigError
from ddpmseg.io.locks import FolderLocks
from ddpmseg.multiruns.gather import gather
from ddpmseg.multiruns.job_records import (
    BLOCKS,
    Job,
    Plan,
    State,
    begin,
    lock_of,
    read_jobs,
    running_jobs,
)
from ddpmseg.multiruns.jobs import Program, run, settings_of_job
from ddpmseg.records.cells import CellStore
from ddpmseg.runs.train import finished, train
from ddpmseg.sweeps.sweep import sweep

LONE = ("head.members=1", "head.max_steps=3")
SMALL = tuple(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps")))
HEADER = ["job", "overrides", "state", "miou", "seconds", "folder", "error"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def hydra_job(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """What Hydra hands to an entry point: a job of a multirun with this number, or a single run.

    The multirun has the folder `multi`.
    """

    def prepare(number: int | None, *overrides: str) -> DictConfig:
        schemas.register()
        given = [*SMALL, f"paths.output_dir={tmp_path / 'run'}", *overrides]
        if number is not None:
            given.append(f"+hydra.job.num={number}")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", given, return_hydra_config=True)
        folder = tmp_path / "multi" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(folder)
            cfg.hydra.sweep.dir = str(tmp_path / "multi")
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
    assert not list((tmp_path / "multi" / "None").iterdir())


def test_job_that_succeeds(hydra_job, tmp_path: Path) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> float:
        assert in_multirun
        logging.getLogger("ddpmseg").warning("at work")
        return 0.25

    assert run(program(work), hydra_job(3)) == 0.25
    job = Job.read(tmp_path / "multi" / "3")
    assert (job.number, job.program, job.state, job.miou, job.error) == (
        3,
        "train",
        "done",
        0.25,
        "",
    )
    assert job.folder == str(tmp_path / "run")
    assert "backbone=random" in job.overrides
    assert "WARNING at work" in (tmp_path / "multi" / "3" / "job.log").read_text()


@pytest.mark.parametrize("error", [ConfigError("no such block"), RuntimeError("out of memory")])
def test_job_that_fails_leaves_its_traceback(hydra_job, tmp_path: Path, error: Exception) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> None:
        raise error

    score = run(program(work), hydra_job(0))
    assert score is not None
    assert score != score
    job = Job.read(tmp_path / "multi" / "0")
    assert (job.state, job.miou) == ("failed", None)
    assert job.error == f"{type(error).__name__}: {error}"
    log = (tmp_path / "multi" / "0" / "job.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert log.rstrip().endswith(f"{type(error).__name__}: {error}") or str(error) in log


def test_job_that_is_finished_is_skipped(hydra_job, tmp_path: Path) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> None:
        pytest.fail("this must not be reached")

    assert run(program(work, done=0.5), hydra_job(1)) == 0.5
    job = Job.read(tmp_path / "multi" / "1")
    assert (job.state, job.miou) == ("skipped", 0.5)


def test_a_job_of_a_multirun_that_was_killed_stays_done(hydra_job, tmp_path: Path) -> None:
    """Whether the kill came after the record of the job or between its results and its record."""

    def killed(cfg: DictConfig, in_multirun: bool) -> None:
        raise KeyboardInterrupt

    assert attempted(hydra_job, tmp_path, 0).state == "done"
    path = tmp_path / "multi" / "0"
    replace(Job.read(path), seconds=7.5).write(path)
    with pytest.raises(KeyboardInterrupt):
        run(program(killed), hydra_job(1))
    for number, seconds in ((0, 7.5), (1, 0.0)):
        assert run(program(killed, done=0.25), hydra_job(number)) == 0.25
        job = Job.read(tmp_path / "multi" / str(number))
        assert (job.state, job.miou, job.seconds) == ("done", 0.25, seconds)
    assert run(program(killed, done=0.75), hydra_job(0)) == 0.75  # by another command
    assert Job.read(path).state == "skipped"


def test_job_that_was_interrupted_is_cut_off(hydra_job, tmp_path: Path) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> None:
        assert [job.state for job in read_jobs(tmp_path / "multi")] == [State.RUNNING]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(program(work), hydra_job(1))
    assert [job.state for job in read_jobs(tmp_path / "multi")] == [State.CUT_OFF]


def attempted(hydra_job, tmp_path: Path, number: int, *overrides: str, fails: bool = False) -> Job:
    """The record of a job after an attempt that fails or not; 'done' only where it was run."""

    def work(cfg: DictConfig, in_multirun: bool) -> float:
        if fails:
            raise RuntimeError("out of memory")
        return 0.25

    run(program(work), hydra_job(number, *overrides))
    return Job.read(tmp_path / "multi" / str(number))


def test_only_failed_runs_what_failed_or_was_cut_off(hydra_job, tmp_path: Path) -> None:
    def killed(cfg: DictConfig, in_multirun: bool) -> None:
        raise KeyboardInterrupt

    only = "multirun.resume=only_failed"
    attempted(hydra_job, tmp_path, 0)
    attempted(hydra_job, tmp_path, 1, fails=True)
    with pytest.raises(KeyboardInterrupt):
        run(program(killed), hydra_job(2))
    states = {n: attempted(hydra_job, tmp_path, n, only).state for n in range(4)}
    assert states == {0: "left out", 1: "done", 2: "done", 3: "left out"}
    assert "only_failed" in Job.read(tmp_path / "multi" / "3").error


def test_a_failed_job_that_is_left_out_counts_as_failed_still(hydra_job, tmp_path: Path) -> None:
    attempted(hydra_job, tmp_path, 1, fails=True)
    begin(tmp_path / "multi", Plan())
    attempted(hydra_job, tmp_path, 0, "multirun.fail_fast=true", fails=True)
    left_out = attempted(hydra_job, tmp_path, 1, "multirun.fail_fast=true")
    assert (left_out.state, left_out.error) == (
        "left out",
        "job 0 failed, and `multirun.fail_fast=true`",
    )
    begin(tmp_path / "multi", Plan())
    assert attempted(hydra_job, tmp_path, 1, "multirun.resume=only_failed").state == "done"


def test_without_fail_fast_others_run_and_the_next_command_begins_anew(
    hydra_job, tmp_path: Path
) -> None:
    attempted(hydra_job, tmp_path, 0, fails=True)
    assert attempted(hydra_job, tmp_path, 1).state == "done"
    attempted(hydra_job, tmp_path, 0, "multirun.fail_fast=true", fails=True)
    begin(tmp_path / "multi", Plan())
    assert attempted(hydra_job, tmp_path, 1, "multirun.fail_fast=true").state == "done"


def test_rerun_replaces_results(hydra_job) -> None:
    def finished_unless_overwritten(cfg: DictConfig) -> float | None:
        return None if cfg.paths.overwrite else 0.5

    rerun = Program("train", lambda cfg, _: float(cfg.paths.overwrite), finished_unless_overwritten)
    assert run(rerun, hydra_job(0)) == 0.5
    assert run(rerun, hydra_job(0, "multirun.resume=rerun")) == 1.0


def test_a_dry_run_needs_a_multirun(hydra_job, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(program(lambda cfg, _: pytest.fail("ran")), hydra_job(None, "multirun.dry_run=true"))
    assert "add `-m`" in capsys.readouterr().err


def test_two_processes_never_run_one_job(
    hydra_job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "multi").mkdir()
    holder = FolderLocks(tmp_path / "multi").take("job4")
    assert holder is not None

    def work(cfg: DictConfig, in_multirun: bool) -> float:
        assert holder is not None
        assert not holder.is_locked
        return 0.25

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, program(work), hydra_job(4))
        wait_until(lambda: re.search("job 4 is being run by .*: waiting", caplog.text))
        assert read_jobs(tmp_path / "multi") == []
        holder.release()
        assert waiting.result(timeout=60) == 0.25
    assert "being run by" in (tmp_path / "multi" / "4" / "job.log").read_text()


def test_a_job_on_a_disk_without_locks(
    hydra_job, tmp_path: Path, disk_without_locks: Callable[[], list[str]]
) -> None:
    def work(cfg: DictConfig, in_multirun: bool) -> float:
        # Nobody can say that it is not.
        assert [job.state for job in read_jobs(tmp_path / "multi")] == [State.RUNNING]
        return 0.25

    for _ in range(2):
        assert run(program(work), hydra_job(1)) == 0.25
    assert disk_without_locks() == [str(tmp_path / "multi")]


PLAN = Plan(
    "train",
    "ddpmseg train -m",
    [
        ["seed=0", "features.blocks=[3]", "features.timesteps=[50]", "head=linear"],
        ["seed=0", "features.blocks=[5,6]", "features.timesteps=[50]", "head.members=2"],
        ["seed=0", "features.blocks=[7]", "features.timesteps=[150]"],
        ["seed=1", "features.blocks=[8]", "features.timesteps=[50]"],
        ["seed=0", "features.timesteps=[50]"],
    ],
)


def test_jobs_that_read_the_same_passes_keep_each_others_blocks(hydra_job, tmp_path: Path) -> None:
    beside = [PLAN.numbers_beside(job, BLOCKS) for job in PLAN.jobs]
    assert beside == [[3, 5, 6], [3, 5, 6], [7], [8], [3, 5, 6]]
    assert Plan.read(tmp_path) == Plan()
    PLAN.write(tmp_path)
    assert Plan.read(tmp_path) == PLAN
    job = Job(0, PLAN.jobs[0], "train", State.RUNNING)
    for given, expected in (
        ((), (5.0, str(tmp_path / "maps"), [3, 5, 6])),
        (("multirun.share_gb=0",), (0.0, None, [])),
        (("features.cache_gb=2",), (2.0, None, [3, 5, 6])),
        (("features.cache_gb=2", "features.cache_blocks=[1]"), (2.0, None, [1])),
    ):
        features = settings_of_job("train", hydra_job(0, *given), job, tmp_path).features
        assert (features.cache_gb, features.cache_dir, features.cache_blocks) == expected


def test_jobs_of_a_sweep_share_one_control_timestep(tmp_path: Path) -> None:
    """However a grid is cut into jobs, the untrained network is read at its smallest t."""
    own = composed_sweep(tmp_path)
    for cut in (["[5]", "[50]", "[400]"], ["[400]", "[50,5]"], ["[5,50,400]"]):
        jobs = [["seed=0", f"sweep.timesteps={part}"] for part in cut]
        plan = Plan("sweep", "ddpmseg sweep -m", [*jobs, ["seed=1", "sweep.timesteps=[1]"]])
        plan.write(tmp_path)
        chosen = {
            settings_of_job(
                "sweep", own, Job(number, job, "sweep", State.RUNNING), tmp_path
            ).sweep.control_timestep
            for number, job in enumerate(jobs)
        }
        assert chosen == {5}


def test_a_plan_does_not_replace_one_whose_jobs_run(tmp_path: Path) -> None:
    begin(tmp_path / "multi", PLAN)
    other = Plan("train", "ddpmseg train -m", [["seed=7"]])
    with FolderLocks(tmp_path / "multi").hold({lock_of(3): ""}):
        assert running_jobs(tmp_path / "multi") == [3]
        with pytest.raises(ConfigError, match="job 3 of another multirun runs there"):
            begin(tmp_path / "multi", other)
        begin(tmp_path / "multi", PLAN)
    begin(tmp_path / "multi", other)
    assert running_jobs(tmp_path / "multi") == []


def test_records_of_another_plan_go(hydra_job, tmp_path: Path) -> None:
    begin(tmp_path / "multi", PLAN)
    attempted(hydra_job, tmp_path, 0)
    begin(tmp_path / "multi", PLAN)
    assert [job.state for job in read_jobs(tmp_path / "multi")] == ["done"] + 4 * ["waiting"]
    begin(tmp_path / "multi", Plan("train", "", [*PLAN.jobs, ["seed=2"]]))
    assert [job.state for job in read_jobs(tmp_path / "multi")] == 6 * ["waiting"]


def test_jobs_are_listed_at_any_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert main(["jobs", str(tmp_path)]) == 2
    begin(tmp_path, PLAN)
    jobs_of(tmp_path, ("done", None), ("failed", None))
    before = contents(tmp_path)
    assert main(["jobs", str(tmp_path)]) == 0
    assert "  0  done     0.500000" in caplog.text
    assert "5 jobs: 1 done, 0 skipped, 1 failed, 3 waiting" in caplog.text
    assert contents(tmp_path) == before


def test_finished_run_is_recognised_by_its_settings(tmp_path: Path) -> None:
    given = (*SMALL, *LONE, "features.blocks=[1]", "features.timesteps=[5]")
    assert finished(composed(tmp_path, *given)) is None
    score = train(composed(tmp_path, *given))
    assert finished(composed(tmp_path, *given)) == score
    assert finished(composed(tmp_path, *given, "paths.overwrite=true")) is None
    for other in ("seed=1", "head.max_steps=4"):
        with pytest.raises(ConfigError, match=f"`{other.split('=')[0]}` was .*, is {other[-1]}"):
            finished(composed(tmp_path, *given, other))


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
        overrides = ["backbone=random", f"features.blocks=[{number}]", 'dataset.name="my horses"']
        error = "ConfigError: no block 9" if state == "failed" else ""
        miou = None if state == "failed" else 0.5
        job = Job(number, overrides, program, State(state), str(run_folder), miou, 1.5, error)
        job.write(place)


def test_jobs_are_logged_and_their_cells_reported(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs_of(tmp_path, ("done", runs["b1"]), ("failed", None), ("skipped", runs["b2"]))
    with caplog.at_level(logging.INFO):
        assert gather(tmp_path, "ddpmseg train -m") == 1
    table = rows(tmp_path / "jobs.csv")
    assert list(table[0]) == HEADER
    assert [(row["job"], row["state"]) for row in table] == [
        ("0", "done"),
        ("1", "failed"),
        ("2", "skipped"),
    ]
    assert [row["miou"] for row in table] == ["0.5", "", "0.5"]
    assert table[1]["error"] == "ConfigError: no block 9"
    pasted = shlex.split(table[0]["overrides"])
    assert pasted == ["backbone=random", "features.blocks=[0]", 'dataset.name="my horses"']
    assert shlex.split(caplog.messages[0])[-1] == "features.blocks=[0]"
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
    assert "ddpmseg train -m" in (tmp_path / "report.html").read_text()


def test_runs_that_differ_otherwise_have_reports_of_their_own(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = [("done", runs[name]) for name in ("b1", "linear", "both", "b2")]
    jobs_of(tmp_path, *found)
    with caplog.at_level(logging.INFO):
        assert gather(tmp_path, "ddpmseg train -m") == 0
    assert f"'{runs['both']}' reads out several maps at once: it is in no curve" in caplog.text
    tables = sorted(tmp_path.glob("*/cells.csv"))
    assert [path.parent.name for path in tables] == ["ponies_random_0", "ponies_random_1"]
    assert [[row["block"] for row in rows(path)] for path in tables] == [["1", "2"], ["2"]]
    assert not (tmp_path / "report.html").exists()


def test_every_job_records_its_own_folder_where_it_is_interpolated(tmp_path: Path) -> None:
    given = (*SEGMENT, "seed=0,1", "paths.output_dir='runs/${run_key:}'")
    assert multirun(tmp_path, "train.py", *given) == 0
    (table,) = tmp_path.glob("outputs/multirun/*/jobs.csv")
    folders = [row["folder"] for row in rows(table)]
    assert len(set(folders)) == 2
    assert all((tmp_path / folder / "results.csv").is_file() for folder in folders)


def test_jobs_that_all_failed(tmp_path: Path) -> None:
    jobs_of(tmp_path, ("failed", None), ("failed", None))
    assert gather(tmp_path, "ddpmseg train -m") == 2
    assert len(rows(tmp_path / "jobs.csv")) == 2
    assert not (tmp_path / "cells.csv").exists()


def test_jobs_of_a_sweep_are_reported_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for timestep in (5, 50):
        sweep(composed_sweep(folder, f"sweep.timesteps=[{timestep}]"), True)
    jobs_of(tmp_path / "multi", ("done", folder), ("done", folder), program="sweep")
    assert gather(tmp_path / "multi", "ddpmseg sweep -m") == 0
    assert len(rows(folder / "cells.csv")) == 4
    assert (folder / "report.html").is_file()
    assert {path.name for path in (tmp_path / "multi").iterdir()} == {"0", "1", "jobs.csv"}


def test_a_sweep_job_that_begins_anew_keeps_the_cells_of_others(tmp_path: Path) -> None:
    for timestep in (5, 50):
        sweep(composed_sweep(tmp_path, f"sweep.timesteps=[{timestep}]"), True)
    paths = {path.name: path for path in (tmp_path / "cells").iterdir()}
    before = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    sweep(composed_sweep(tmp_path, "sweep.timesteps=[50]", "paths.overwrite=true"), True)
    after = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if "_t0050_" in name
    }
    assert len(before) == 4


def launched(program: str, cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A multirun in an empty folder, so that all its paths are the default ones."""
    command = [sys.executable, str(ROOT / program), "-m", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DDPMSEG_CACHE": str(cwd / "cache")}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
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
    assert states == ["done", "done", "failed", "failed"]
    assert rows(folder / "cells.csv") == cells
    assert contents(tmp_path / "outputs" / "segment") == kept
    assert not (tmp_path / "cache").exists()

    before = contents(tmp_path)
    listed = launched("train.py", tmp_path, *command, "multirun.dry_run=true")
    assert listed.returncode == 0, listed.stderr
    assert "4 jobs: 2 done, 0 skipped, 2 failed; nothing was started" in listed.stderr
    assert f"-> outputs/segment/ponies_random_{schemas_key(kept)}" in listed.stderr
    assert contents(tmp_path) == before


def schemas_key(kept: dict[str, bytes]) -> str:
    """The key in the name of the first run's folder."""
    return next(iter(kept)).split("/")[0].rpartition("_")[2]


def test_a_finished_multirun_of_pretrainings_given_again(tmp_path: Path) -> None:
    command = ("train.py", *PRETRAIN, "pretrain.num_steps=1,2", "hydra.sweep.dir=multi")
    for _ in range(2):
        assert multirun(tmp_path, *command) == 0
        jobs = rows(tmp_path / "multi" / "jobs.csv")
        assert [(job["state"], job["miou"]) for job in jobs] == [("done", ""), ("done", "")]
    (weights,) = (tmp_path / jobs[0]["folder"]).glob("*.safetensors")
    weights.with_name("unet.json").unlink()
    assert multirun(tmp_path, *command) == 0
    assert (tmp_path / jobs[0]["folder"] / "unet.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_jobs_under_submitit(tmp_path: Path) -> None:
    choices = ("features.blocks=[1],[2]", "features.timesteps=[5]")
    command = (*SMALL, *LONE, *choices, "hydra/launcher=submitit_local")
    done = launched("train.py", tmp_path, *command)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert [job["state"] for job in rows(folder / "jobs.csv")] == ["done", "done"]
    assert [row["block"] for row in rows(folder / "cells.csv")] == ["1", "2"]
    found = [
        rows(Path(tmp_path, job["folder"], "results.csv"))[0] for job in rows(folder / "jobs.csv")
    ]
    # Both jobs ran at once: five images at one timestep, by whichever came first.
    assert sum(int(row["pairs_computed"]) for row in found) == 5
    assert sum(int(row["pairs_read"]) for row in found) == 5
    assert not (folder / "maps").exists()

    submitted = sorted((folder / ".submitit").iterdir())
    again = launched("train.py", tmp_path, *command)
    assert again.returncode == 0, again.stderr
    assert "all 2 jobs are finished: nothing is submitted" in again.stderr
    assert sorted((folder / ".submitit").iterdir()) == submitted
    assert [job["miou"] for job in rows(folder / "jobs.csv")] == [row["miou"] for row in found]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_command_given_twice_at_once(tmp_path: Path) -> None:
    """Each job is run once, and both processes report all of them."""
    choices = ("features.blocks=[1],[2]", "features.timesteps=[5]", "hydra.sweep.dir=multi")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, *LONE, *choices]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    jobs = rows(tmp_path / "multi" / "jobs.csv")
    assert {job["state"] for job in jobs} <= {"done", "skipped"}
    assert [row["block"] for row in rows(tmp_path / "multi" / "cells.csv")] == ["1", "2"]
    assert "Best cell: block" in (tmp_path / "multi" / "findings.txt").read_text()
    assert not list((tmp_path / "multi").rglob("*.tmp"))


@pytest.mark.slow
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
