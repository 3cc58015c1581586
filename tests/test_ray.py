"""A multirun by a local Ray, in an environment that has its launcher; see .ci/run."""

import csv
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from tiny_run import ROOT, SEGMENT

PYTHON = os.environ.get("DDPMSEG_RAY")
JOBS = (
    *(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps", "head."))),
    *("head.members=1", "head.hidden=[8]", "head.max_steps=3"),
    *("features.timesteps=[5],[50]", "features.blocks=[1],[2]", "hydra.sweep.dir=multi"),
    *("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
    "+hydra.launcher.ray.init.include_dashboard=false",
)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(PYTHON is None, reason="DDPMSEG_RAY names no python with hydra-ray-launcher")
def test_jobs_under_ray(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        files = f"+hydra.launcher.ray.init._temp_dir={folder}"
        command = [str(PYTHON), str(ROOT / "train.py"), "-m", *JOBS, files]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    with (tmp_path / "multi" / "jobs.csv").open(newline="") as file:
        assert [job["state"] for job in csv.DictReader(file)] == ["done"] * 4
    with (tmp_path / "multi" / "cells.csv").open(newline="") as file:
        cells = {(row["block"], row["timestep"]) for row in csv.DictReader(file)}
    assert cells == {("1", "5"), ("1", "50"), ("2", "5"), ("2", "50")}
