"""Processes of a multirun share out the GPUs of a machine; no GPU is needed for that."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from ddpmseg.runtime import gpus
from ddpmseg.runtime.gpus import least_used, take_gpu, visible_gpus

TAKE = """
import sys
from pathlib import Path
from ddpmseg.runtime.gpus import least_used
name, lock = least_used(["0", "1"], Path(sys.argv[1]))
print(name, flush=True)
sys.stdin.read()
"""


Take = Callable[..., str | None]


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Take]:
    """Take one of these GPUs until the test ends."""
    with ExitStack() as until_done:

        def take(*names: str) -> str | None:
            found = least_used(names, tmp_path)
            if found is not None:
                until_done.callback(found[1].release)
            return found and found[0]

        yield take


def test_each_takes_a_free_one_then_the_least_used(take: Take, tmp_path: Path) -> None:
    found = least_used(["a", "b", "c"], tmp_path)
    assert found is not None
    assert [take("a", "b", "c") for _ in range(6)] == ["b", "c", "a", "b", "c", "a"]
    found[1].release()
    # What was given back is free, though the others have two each.
    assert take("c", "b", "a") == "a"


def test_nothing_is_chosen_where_all_are_full(take: Take) -> None:
    assert all(take("a") for _ in range(gpus.MOST_PER_GPU))
    assert take("a") is None


def test_a_killed_process_gives_its_gpu_back(take: Take, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        assert take("0", "1") == "1"
        process.kill()
        process.wait()
    assert take("0", "1") == "0"


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine with four GPUs, and a process that has chosen none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(gpus, "_held", held := [])
    monkeypatch.setattr(gpus, "lock_folder", lambda: tmp_path)
    monkeypatch.setenv(gpus.VISIBLE, "will be set")
    monkeypatch.delenv(gpus.VISIBLE)
    yield
    for lock in held:
        lock.release()


def test_a_process_keeps_what_it_took(four: None) -> None:
    assert take_gpu("cpu") is None
    assert take_gpu("auto") == "0"
    assert os.environ[gpus.VISIBLE] == "0"
    assert take_gpu("auto") is None
    assert os.environ[gpus.VISIBLE] == "0"


def test_only_visible_ones_are_taken(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpus(4) == ["0", "1", "2", "3"]
    monkeypatch.setenv(gpus.VISIBLE, "2, GPU-5f")
    assert visible_gpus(2) == ["2", "GPU-5f"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert take_gpu("gpu") == "2"


@pytest.mark.parametrize("made", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_a_folder_of_locks_that_is_not_ours_stops_no_job(
    made: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another user of the machine has made what this one would make, in the common folder."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    folder = tmp_path / "ddpmseg-gpus-12345"
    made(folder)
    assert take_gpu("auto") is None
    (record,) = caplog.records
    assert f"no GPU is chosen, so jobs share the first one: '{folder}'" in record.getMessage()
    assert "Choose another $TMPDIR" in record.getMessage()


def test_a_single_gpu_is_left_alone(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert take_gpu("auto") is None
    assert gpus.VISIBLE not in os.environ


def test_a_process_that_uses_cuda_already_is_left_alone(
    four: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert take_gpu("auto") is None
