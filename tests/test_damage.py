"""Every file of finished and half-finished work, damaged, against every program that reads it.

A program says in one sentence what is wrong and ends with status 2, or does its work anyway: what
can be rebuilt is rebuilt. None ends in a traceback, and none hangs.
"""

import contextlib
import io
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from finished_work import (
    CPU,
    DISTILLED,
    GRID,
    JOBS,
    ROBUSTNESS,
    RUN,
    SAMPLE,
    small_segmenter,
)
from tiny_run import PRETRAIN, composed, multirun

import ddpmseg
from ddpmseg.__main__ import main
from ddpmseg.errors import UserError
from ddpmseg.runs import train as runs
from ddpmseg.runs.train import train
from ddpmseg.sweeps import sweep as sweeps
from ddpmseg.sweeps.sweep import sweep

Program = Callable[[], object]


def command(*words: object) -> Program:
    return lambda: main([str(word) for word in words])


def training(folder: str, *given: str) -> Program:
    return lambda: train(composed(Path(folder), *given))


def sweeping(*given: str) -> Program:
    return lambda: sweep(composed(Path("sweep"), *GRID, *given, root="sweep"))


def opened_run() -> None:
    ddpmseg.open_run("run")(np.zeros((1, 16, 16, 3), np.uint8))


def opened_sweep() -> None:
    found = ddpmseg.open_sweep("sweep")
    _ = found.cells, found.best, found.settings


def jobs(*given: str) -> Program:
    return lambda: multirun(Path(), "train.py", *JOBS, *given)


def predict(folder: str) -> Program:
    return command("predict", "pony.png", "--run", folder, "--output-dir", "out", *CPU)


PROGRAMS: dict[str, dict[str, Program]] = {
    "run": {
        "predict": predict("run"),
        "export": command("export", "run", "out"),
        "compare": command("compare", "run", "pixels", "--per-class"),
        "table": command("table", "run", "pixels"),
        "open_run": opened_run,
        "train": training("run", *RUN),
        "train anew": training("run", *RUN, "paths.overwrite=true"),
        "a multirun": lambda: runs.finished(composed(Path("run"), *RUN)),
    },
    "half": {"train": training("half", *RUN), "predict": predict("half")},
    "half_pretrain": {"train": training("half_pretrain", *PRETRAIN)},
    "half_distill": {"train": training("half_distill", *DISTILLED)},
    "pretrain": {
        "train": training("pretrain", *PRETRAIN),
        "train with it": training("out", *RUN, "backbone.checkpoint=pretrain/unet.safetensors"),
        "weights describe": command("weights", "describe", "pretrain/unet.safetensors"),
    },
    "distill": {
        "predict": predict("distill"),
        "table": command("table", "distill"),
        "train": training("distill", *DISTILLED),
    },
    "sweep": {
        "report": command("report", "sweep"),
        "select": command("select", "sweep", *CPU),
        "sweep": sweeping(),
        "dry run": sweeping("sweep.dry_run=true"),
        "open_sweep": opened_sweep,
        "a multirun": lambda: sweeps.finished(composed(Path("sweep"), *GRID, root="sweep")),
    },
    "multirun": {
        "jobs": command("jobs", "multirun", "--report"),
        "dry run": jobs("multirun.dry_run=true"),
        "train -m": jobs(),
    },
    "drawn": {"sample": command(*SAMPLE), "sample more": command(*SAMPLE[:-1], "3", "--keep", "1")},
    "robustness": {"robustness": command(*ROBUSTNESS)},
}
NEEDED = {
    "run": ("pixels", "pony.png"),
    "half": ("pixels", "pony.png"),
    "half_distill": ("samples",),
    "distill": ("samples", "pony.png"),
    "multirun": ("outputs",),
    "drawn": ("run",),
    "robustness": ("pixels", "cache"),
}
"""What else the programs read."""


def garble(path: Path) -> None:
    content, draw = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(min(len(content), 1 + len(content) // 20)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbled": garble,
    "a folder": replace_by_folder,
    "a list": lambda path: path.write_text("[1]"),
    "other JSON": lambda path: path.write_text('{"a": {"b": 1}}'),
    "deep JSON": lambda path: path.write_text("[" * 100_000),
    "text": lambda path: path.write_text("Dear diary,\nnothing.\n"),
    "another encoding": lambda path: path.write_bytes("caf\xe9\n".encode("latin-1")),
    "missing": lambda path: path.unlink(),
}
UNREAD = (".svg", ".md", ".tex", ".html", ".log", ".png")
"""Files for people, which no program reads but sample its own pictures."""
FAST = 60


def cases(work: Path) -> list[tuple[str, str, str, str]]:
    """(kind, file, damage, program) of all of them, in an order that is drawn once for all."""
    found = [
        (kind, str(path.relative_to(work / kind)), damage, program)
        for kind, programs in PROGRAMS.items()
        for path in sorted((work / kind).rglob("*"))
        if path.is_file() and (kind == "drawn" or path.suffix not in UNREAD)
        for damage in DAMAGES
        for program in programs
    ]
    return sorted(found, key=lambda case: zlib.crc32(repr(case).encode()))


@contextlib.contextmanager
def copied(work: Path, kind: str, to: Path) -> Iterator[None]:
    for name in (kind, *NEEDED.get(kind, ())):
        copy = shutil.copytree if (work / name).is_dir() else shutil.copy
        copy(work / name, to / name)
    before = Path.cwd()
    os.chdir(to)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(to)


def outcome(program: Program, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The status of a program, and what it says; any exception but a user's error goes through."""
    try:
        with small_segmenter(), contextlib.redirect_stdout(io.StringIO()):
            status = program()
    except UserError as error:
        return 2, f"{capsys.readouterr().err}{error}"
    except SystemExit as error:
        status = error.code
    return status, capsys.readouterr().err


def check(work: Path, some: list[tuple[str, str, str, str]], tmp_path: Path, capsys) -> None:
    failed = []
    for kind, file, damage, program in some:
        place = tmp_path / "place"
        place.mkdir()
        name = f"{kind}/{file}, {damage}, {program}"
        with copied(work, kind, place):
            DAMAGES[damage](Path(kind, file))
            try:
                status, said = outcome(PROGRAMS[kind][program], capsys)
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
                continue
        if "Traceback" in said:
            failed.append(f"{name}: {said[-300:]}")
        elif status == 2 and not said.strip():
            failed.append(f"{name}: says nothing")
    assert not failed, "\n".join(failed)


@pytest.mark.timeout(300)
def test_no_damage_ends_in_a_traceback(finished_work: Path, tmp_path: Path, capsys) -> None:
    check(finished_work, cases(finished_work)[:FAST], tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)  # enough for all of them
def test_no_damage_of_many_more_ends_in_a_traceback(
    finished_work: Path, tmp_path: Path, capsys, request: pytest.FixtureRequest
) -> None:
    some = cases(finished_work)[FAST : request.config.getoption("damages")]
    check(finished_work, some, tmp_path, capsys)
