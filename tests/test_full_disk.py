"""A disk that fills at any write: one sentence, and the repeated command leaves what it should."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_distill import draw_samples
from test_resume import results
from test_unpack import good_entries, make_archive
from tiny_annotations import save_coco, save_labelme
from tiny_run import DISTILL, PRETRAIN, SEGMENT, composed, multirun

from ddpmseg.__main__ import main
from ddpmseg.data.dataset_archive import unpack_folder
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import DiskError
from ddpmseg.io.files import append_text, atomic_write, explain_unwritable
from ddpmseg.io.tensor_file import save_pickled
from ddpmseg.runs.train import train

ADVICE = "(No space left on device). Make room, and repeat the command: what is finished is kept."


@contextmanager
def room_for(writes: int) -> Iterator[None]:
    """A disk that is full after so many files: each is flushed before it is put in its place."""
    sync, left = os.fsync, iter(range(writes))

    def syncing(file: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", syncing)
        yield


@pytest.mark.parametrize(
    "given",
    [
        (*SEGMENT, "dataset.num_test=1"),
        (*PRETRAIN, "pretrain.num_steps=2", "pretrain.sample_every=2"),
        (*DISTILL, "segmenter.images=SAMPLES", "segmenter.num_epochs=1", "dataset.num_test=1"),
    ],
    ids=["segment", "pretrain", "distill"],
)
def test_a_run_goes_on_after_every_write_that_found_no_room(
    given: tuple[str, ...], tmp_path: Path
) -> None:
    samples = draw_samples(tmp_path / "samples")
    given = tuple(word.replace("SAMPLES", str(samples)) for word in given)
    folder = tmp_path / "run"
    config = composed(folder, *given)
    train(config.copy())
    expected = results(folder)
    folder.rename(tmp_path / "undisturbed")
    said = []
    while len(said) < 100:
        try:
            with room_for(len(said)):
                train(config.copy())
            break
        except DiskError as error:
            said.append(str(error))
    assert 5 < len(said) < 100
    assert all(text.startswith(f"'{folder}/") and text.endswith(ADVICE) for text in said)
    found = results(folder)
    for files in (found, expected):
        files.pop("last.ckpt", None)  # which holds seconds
    assert found == expected


def test_a_multirun_ends_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second job finds no room; the first is kept, and both are there in the end."""
    given = (*SEGMENT, "features.blocks=[1],[2]", "features.timesteps=[5]", "hydra.sweep.dir=m")
    with room_for(12):
        assert multirun(tmp_path, "train.py", *given) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.endswith(ADVICE)
    assert multirun(tmp_path, "train.py", *given) == 0
    assert (tmp_path / "m" / "report.html").is_file()


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """No file above this size can be written by this process, nor by those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limited(folder: Path, num_bytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`ddpmseg WORDS` by a process that may write no file above this size."""
    code = (
        "import resource, sys; from ddpmseg.__main__ import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({num_bytes}, {num_bytes}));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "num_bytes", "name"),
    [
        (SEGMENT, 10, "record.json"),
        (SEGMENT, 5000, "head.safetensors"),
        (PRETRAIN, 100_000, "last.ckpt"),
        ((*PRETRAIN, "pretrain.checkpoint_every=100"), 100_000, "unet.safetensors"),
    ],
)
def test_a_write_that_the_system_refuses(
    given: tuple[str, ...], num_bytes: int, name: str, tmp_path: Path
) -> None:
    """Whatever library writes, and with the log of the run as full as the disk."""
    done = limited(tmp_path, num_bytes, "train", *given, "paths.output_dir=run")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"error: 'run/{name}' cannot be written to (File too large). Make room, and repeat the "
        "command: what is finished is kept."
    )


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_text(path, "one\n")
    says = r"lines' cannot be written to \(File too large\)"
    with files_of_at_most(10), pytest.raises(DiskError, match=says):
        append_text(path, "half of this line fits\n")
    assert path.read_text() == "one\n"
    append_text(path, "two\n")
    assert path.read_text() == "one\ntwo\n"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_torch_says_what_the_disk_said() -> None:
    with pytest.raises(OSError, match="No space left"):
        save_pickled({"weights": [0.0] * 100_000}, Path("/dev/full"))


def test_what_is_read_elsewhere_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    missing = tmp_path / "other" / "missing"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError), atomic_write(folder / "file") as unfinished:
        unfinished.write_bytes(missing.read_bytes())
    (folder / "taken").mkdir()
    says = r"taken' cannot be written to \(Is a directory\)\. Choose another folder"
    with pytest.raises(DiskError, match=says), explain_unwritable(folder / "taken"):
        (folder / "taken").write_text("")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What there is to convert and to export."""
    folder = tmp_path_factory.mktemp("sources")
    train(composed(folder / "run", *SEGMENT, "head.hidden=[8,4]"))
    state = {"weight": torch.zeros(1000)}
    torch.save({"model": state, "trainer": Path("executed")}, folder / "wrapped.pt")
    save_coco(folder / "coco")
    save_labelme(folder / "labelme")
    images, masks = zip(*(draw_pony(index, "pretrain", 0, 32) for index in range(2)), strict=True)
    uncertainties = np.zeros(2, np.float32)
    np.savez(folder / "samples.npz", np.stack(images), np.stack(masks), uncertainties)
    Image.fromarray(images[0]).save(folder / "pony.png")
    return folder


@pytest.mark.parametrize(
    ("command", "num_bytes"),
    [
        ("weights convert wrapped.pt OUT.safetensors", 500),
        ("weights convert-diffusers bundled:ponies64 OUT", 100_000),
        ("export run OUT", 500),
        ("data write ponies --output OUT dataset.num_labelled=1 dataset.num_test=1", 500),
        ("data convert coco/annotations.json OUT", 100),
        ("data convert labelme OUT", 100),
        ("data unpack samples.npz OUT --classes ponies", 500),
        ("predict pony.png --run run --output-dir OUT --accelerator cpu", 100),
        ("table run --output OUT.md", 10),
    ],
)
def test_a_conversion_names_the_disk(
    command: str,
    num_bytes: int,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not what it reads, which is in order; and nothing stays that is half written."""
    monkeypatch.chdir(sources)
    words = command.replace("OUT", str(tmp_path / "out")).split()
    with files_of_at_most(num_bytes):
        status = main(words)
    said = capsys.readouterr().err
    assert (status, "Traceback" in said) == (2, False)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: '{tmp_path / 'out'}")
    assert line.endswith(ADVICE.replace("No space left on device", "File too large"))
    assert not list(tmp_path.rglob("*.tmp"))
    assert main(words) == 0


def test_an_archive_that_finds_no_room_is_not_damaged(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "sets.tar.gz", *good_entries())
    with files_of_at_most(1), pytest.raises(DiskError, match=r"'.*horses' cannot be written to"):
        unpack_folder(archive, "horses", tmp_path / "horses")
    unpack_folder(archive, "horses", tmp_path / "horses")
