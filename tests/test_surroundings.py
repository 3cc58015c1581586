"""Where a program is started: no screen, no home, an output that takes nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import SEGMENT

from ddpmseg.__main__ import main
from ddpmseg.runtime.surroundings import (
    BACKEND,
    caches_without_home,
    draw_without_window,
    environment,
    home_is_writable,
)

NOTEBOOK = "module://no_such_package.backend_inline"
"""What a notebook hands down; its package is not installed here."""
COMMAND = (sys.executable, "-m", "ddpmseg")


@pytest.mark.slow
def test_a_run_needs_neither_a_window_nor_a_home(tmp_path: Path) -> None:
    out = tmp_path / "out"
    logger = ("logger=wandb", "logger.mode=offline", "logger.num_images=0")
    done = subprocess.run(
        [*COMMAND, "train", *SEGMENT, *logger, f"paths.output_dir={out}"],
        env=os.environ | {"HOME": "/proc/1", BACKEND: NOTEBOOK},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "results.csv").is_file()
    assert (out / "wandb" / "artifacts").is_dir()


def test_a_notebook_keeps_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BACKEND, NOTEBOOK)
    monkeypatch.setitem(sys.modules, "matplotlib", object())
    draw_without_window()
    assert os.environ[BACKEND] == NOTEBOOK
    monkeypatch.delitem(sys.modules, "matplotlib")
    draw_without_window()
    assert os.environ[BACKEND] == "agg"


@pytest.mark.parametrize("home", ["/proc/1", "/proc/nobody", "/dev/null"])
def test_libraries_get_folders_where_the_home_takes_nothing(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", "given")
    monkeypatch.setenv("MPLCONFIGDIR", "")
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("WANDB_CONFIG_DIR", "")
    monkeypatch.delenv("WANDB_CONFIG_DIR")
    assert not home_is_writable()
    caches_without_home()
    assert os.environ["WANDB_CACHE_DIR"] == "given"
    for variable in ("MPLCONFIGDIR", "WANDB_CONFIG_DIR"):
        assert Path(os.environ[variable]).is_relative_to(tmp_path)
        assert Path(os.environ[variable]).is_dir()


def test_a_home_that_takes_files_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    caches_without_home()
    assert "MPLCONFIGDIR" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment("DDPMSEG_TEST", "1"):
        assert os.environ["DDPMSEG_TEST"] == "1"
    assert "DDPMSEG_TEST" not in os.environ
    monkeypatch.setenv("DDPMSEG_TEST", "given")
    with environment("DDPMSEG_TEST", "1"):
        assert os.environ["DDPMSEG_TEST"] == "given"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["blocks"]])
def test_an_output_that_takes_nothing_is_a_sentence(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the output cannot be written (No space left on device). Send it elsewhere.\n"
    )


def test_a_reader_that_has_gone_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "train", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("logger.project=team/horses", "`logger.project=team/horses`: W&B takes 1 to 128"),
        (f"logger.project={'a' * 129}", "W&B takes 1 to 128 characters"),
        ("logger.project=", "W&B takes 1 to 128 characters"),
        ("'logger.project=\"50%\"'", "W&B takes 1 to 128 characters"),
        ("logger.entity=a/b", "`logger.entity=a/b`: W&B takes 1 to 128"),
    ],
)
@pytest.mark.parametrize("program", ["train", "sweep"])
def test_names_that_wandb_refuses_are_refused_before_the_work(
    program: str,
    word: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [program, "logger=wandb", word.strip("'"), f"paths.output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["ddpmseg", *words])
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, {"GOMP_SPINCOUNT": "3000"}), (ACTIVE := {"OMP_WAIT_POLICY": "ACTIVE"}, ACTIVE)],
)
def test_threads_give_up_a_core_unless_the_user_says_otherwise(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what the program sets is undone
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    main(["blocks", "backbone=random"])
    assert {name: os.environ[name] for name in names if name in os.environ} == expected


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize(("variable", "is_kept"), [("", True), ("MALLOC_CHECK_", False)])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(variable: str, is_kept: bool) -> None:
    code = """
import numpy as np, psutil
from ddpmseg.runtime.surroundings import keep_freed_memory
keep_freed_memory()
resident = psutil.Process().memory_info
before = resident().rss
numbers = np.ones(1 << 23)
del numbers
print(resident().rss - before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    if variable:
        environment[variable] = "0"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 60_000_000) == is_kept
