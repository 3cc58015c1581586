"""What a process that was killed left unfinished goes when its program is started again."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_distill import draw_samples
from tiny_annotations import save_labelme
from tiny_run import DISTILL, PRETRAIN, SEGMENT, SWEEP, composed, multirun

from ddpmseg.__main__ import main
from ddpmseg.data.ponies import draw_pony
from ddpmseg.io.files import UNFINISHED, atomic_folder, atomic_write, remove_unfinished
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

WRITING = """
import os, signal, sys
from pathlib import Path
from ddpmseg.io.files import atomic_folder, atomic_write
with atomic_write(Path(sys.argv[1], "file")) as file, atomic_folder(Path(sys.argv[2])) as folder:
    file.write_text("half")
    (folder / "inside").write_text("half")
    print(file, folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def writing(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[Path]]]:
    """A process that writes a file and a folder in `folder`, and the paths it writes to."""
    command = [sys.executable, "-c", WRITING, str(folder), str(folder / "folder")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        paths = [Path(word) for word in process.stdout.readline().split()]
        yield process, paths


def test_what_a_process_writes_stays_until_it_is_killed(tmp_path: Path) -> None:
    with writing(tmp_path) as (process, paths):
        assert all(UNFINISHED.fullmatch(path.name) and path.exists() for path in paths)
        with atomic_folder(tmp_path / "folder"):
            pass
        remove_unfinished(tmp_path)
        assert (paths[0].read_text(), (paths[1] / "inside").read_text()) == ("half", "half")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(path.exists() for path in paths)
        remove_unfinished(tmp_path, "other")
        assert all(path.exists() for path in paths)
        remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_what_this_package_began_is_removed(tmp_path: Path) -> None:
    names = (".mine.tmp", "mine.0123abcd.tmp", ".mine.0123abcd.tmp.txt", ".mine.zzzzzzzz.tmp")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".linked.0123abcd.tmp").symlink_to(tmp_path / ".mine.tmp")
    remove_unfinished(tmp_path, below=True)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.usefixtures("disk_without_locks")
def test_nothing_is_removed_from_a_disk_without_locks(tmp_path: Path) -> None:
    """There nobody can say whether it is still written."""
    (tmp_path / ".file.0123abcd.tmp").touch()
    remove_unfinished(tmp_path)
    assert (tmp_path / ".file.0123abcd.tmp").exists()
    with atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("text")
    with atomic_folder(tmp_path / "folder") as unfinished:
        (unfinished / "inside").touch()
    assert (tmp_path / "file").read_text() == "text"


def jobs(folder: Path) -> None:
    assert (
        multirun(folder.parent, "train.py", *SEGMENT, "seed=0,1", f"hydra.sweep.dir={folder}") == 0
    )


def unpacked(folder: Path) -> None:
    images, masks = zip(*(draw_pony(index, "pretrain", 0, 16) for index in range(2)), strict=True)
    archive = folder.parent / "samples.npz"
    np.savez(archive, np.stack(images), np.stack(masks), np.zeros(2, np.float32))
    assert main(["data", "unpack", str(archive), str(folder), "--classes", "ponies"]) == 0


def predicted(folder: Path) -> None:
    run = folder.parent / "run"
    train(composed(run, *SEGMENT))
    write = ["data", "write", "ponies", "dataset.num_labelled=1", "dataset.num_test=1"]
    assert main([*write, "--output", str(folder.parent / "set")]) == 0
    photo = next((folder.parent / "set" / "real" / "test").glob("*.png"))
    words = ["predict", str(photo), "--run", str(run), "--output-dir", str(folder)]
    assert main([*words, "--accelerator", "cpu"]) == 0


def distilled(folder: Path) -> None:
    samples = draw_samples(folder.parent / "samples")
    train(composed(folder, *DISTILL, f"segmenter.images={samples}", "segmenter.num_epochs=1"))


@pytest.mark.parametrize(
    ("program", "below"),
    [
        (lambda folder: train(composed(folder, *SEGMENT)), "masks"),
        (lambda folder: train(composed(folder, *PRETRAIN)), "."),
        (distilled, "epochs"),
        (lambda folder: sweep(composed(folder, *SWEEP, root="sweep")), "cells"),
        (jobs, "0"),
        (draw_samples, "."),
        (unpacked, "."),
        (predicted, "."),
    ],
    ids=["train", "pretrain", "distill", "sweep", "multirun", "sample", "unpack", "predict"],
)
def test_a_program_removes_what_it_left_unfinished(
    program: Callable[[Path], object], below: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    left = [folder / ".name.csv.0123abcd.tmp", folder / below / ".name.png.0123abcd.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    program(folder)
    assert not [path for path in left if path.exists()]


def test_a_conversion_removes_what_it_left_unfinished(tmp_path: Path) -> None:
    left = tmp_path / ".out.0123abcd.tmp"
    (left / "real").mkdir(parents=True)
    save_labelme(tmp_path / "labelme")
    assert main(["data", "convert", str(tmp_path / "labelme"), str(tmp_path / "out")]) == 0
    assert not left.exists()
