"""A multirun through a real SLURM of one node: a job is cancelled, and the command repeated."""

import csv
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from tiny_run import ROOT, SEGMENT
from waiting import wait_until

from ddpmseg.multiruns.job_records import Job, State, read_jobs
from ddpmseg.records.run_folder import CHECKPOINT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(slurm.missing()), reason="SLURM's daemons are not installed"),
    pytest.mark.skipif(os.getuid() != 0, reason="SLURM's daemons need root"),
]
JOBS = (
    *(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps"))),
    *("features.timesteps=[5],[50]", "features.blocks=[1],[2]"),
    *("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null"),
    *("hydra.launcher.mem_gb=null", "hydra.launcher.cpus_per_task=1"),
    *("hydra.launcher.timeout_min=5", "hydra.sweep.dir=multi"),
)
QUICK = ("head.members=1", "head.max_steps=3")
LONG = ("head.members=1", "head.max_steps=6000", "head.batch_size=16")
"""For longer than it takes to cancel a job that has left a checkpoint."""
WAITS_IN_VAIN = "this cluster keeps no accounts"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="slurm") as folder,
        slurm.one_node(Path(folder, "cluster")) as environment,
    ):
        yield environment | {"OMP_NUM_THREADS": "1"}


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "-m", *JOBS, *overrides]


def with_checkpoint(folder: Path) -> list[Job]:
    """Jobs that are being trained, far enough to go on from where they are."""
    jobs = read_jobs(folder / "multi") if (folder / "multi" / "multirun.json").exists() else []
    return [job for job in jobs if job.folder and (folder / job.folder / CHECKPOINT).exists()]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cancelled_job_goes_on_when_the_command_is_repeated(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    environment = cluster | {"DDPMSEG_CACHE": str(tmp_path / "cache")}
    log = tmp_path / "first.log"
    with log.open("w") as file:
        first = subprocess.Popen(
            command(*LONG),
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=file,
            # What runs in the background of a shell ignores Ctrl-C, and its children with it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_until(lambda: len(slurm.queue(environment)) == 4, 90)
        wait_until(lambda: with_checkpoint(tmp_path), 120)
        cancelled = with_checkpoint(tmp_path)[0].number
        (job,) = (name for name in slurm.queue(environment) if name.endswith(f"_{cancelled}"))
        slurm.output(["scancel", job], environment)
        wait_until(lambda: not slurm.queue(environment), 200)
        # Without accounts the command cannot see that the job was cancelled.
        first.send_signal(signal.SIGINT)
        assert first.wait(60) != 0
    assert log.read_text().count(WAITS_IN_VAIN) == 1
    assert "Traceback" not in log.read_text()
    assert "deprecated" not in log.read_text()
    others = [job for job in read_jobs(tmp_path / "multi") if job.number != cancelled]
    assert [job.state for job in others] == [State.DONE] * 3

    again = subprocess.run(
        command(*LONG), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    jobs = rows(tmp_path / "multi" / "jobs.csv")
    assert [job["state"] for job in jobs] == ["done"] * 4
    said = (tmp_path / "multi" / str(cancelled) / "job.log").read_text()
    assert "resuming from" in said
    cells = [(row["block"], row["timestep"]) for row in rows(tmp_path / "multi" / "cells.csv")]
    assert sorted(cells) == [("1", "5"), ("1", "50"), ("2", "5"), ("2", "50")]


def test_a_wrong_partition_is_a_sentence(cluster: dict[str, str], tmp_path: Path) -> None:
    refused = subprocess.run(
        command(*QUICK, "hydra.launcher.partition=gpu"),
        cwd=tmp_path,
        env=cluster,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "error: sbatch: error: invalid partition specified: gpu" in refused.stderr
    assert "Traceback" not in refused.stderr
