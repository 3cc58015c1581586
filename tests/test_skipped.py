"""`--no-skips`: the continuous integration leaves out no test without being seen to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_passes(): pass

def test_skips(): pytest.skip("no browser")

@pytest.mark.gpu
def test_needs_a_gpu(): pytest.skip("no GPU")
"""


@pytest.mark.slow
def test_what_is_skipped_fails_unless_it_needs_a_gpu(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")

    def outcome(*options: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "."]
        others = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        return subprocess.run(
            command, cwd=tmp_path, env=others, capture_output=True, text=True, check=False
        ).stdout

    assert "1 passed, 2 skipped" in outcome()
    strict = outcome("--no-skips")
    assert "1 failed, 1 passed, 1 skipped" in strict
    assert "skipped, which --no-skips forbids" in strict
    assert "no browser" in strict
