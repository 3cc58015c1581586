"""Programs killed at random moments and repeated, by `stops.py`, which does it at length."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["train", "sweep", "pretrain", "distill", "sample"])
def test_a_killed_program_is_repeated_to_the_same_files(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "tests/stops.py", "kill", str(tmp_path), program, "--times", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills" in done.stdout
