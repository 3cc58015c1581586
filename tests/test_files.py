"""Files and folders that appear complete or not at all."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import contents

from ddpmseg.errors import DiskError
from ddpmseg.io.files import atomic_folder, atomic_write, explain_unwritable


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folders_have_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("text")
    with atomic_folder(tmp_path / "folder") as unfinished:
        (unfinished / "inside").touch()
    assert mode(tmp_path / "file") == 0o666 & ~umask
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_an_earlier_file_survives_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("earlier")
    with pytest.raises(UnicodeEncodeError), atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("hal" + "\ud800")
    with pytest.raises(UnicodeEncodeError), atomic_folder(tmp_path / "folder") as unfinished:
        (unfinished / "inside").write_text("hal" + "\ud800")
    assert contents(tmp_path) == {"file": b"earlier"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", [".", "/"])
def test_a_folder_without_a_name_is_no_file(path: str) -> None:
    with (
        pytest.raises(DiskError, match=r"cannot be written to \(Is a directory\)"),
        atomic_write(Path(path)),
    ):
        pass


def test_the_file_at_fault_is_named(tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    said = rf"'{tmp_path}/head' cannot be written to \(Is a directory\)\. Choose another folder"
    with pytest.raises(DiskError, match=said), explain_unwritable(tmp_path):
        (tmp_path / "head").write_text("weights", encoding="utf-8")


def test_of_two_that_write_one_file_the_last_wins(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as one, atomic_write(tmp_path / "file") as other:
        for unfinished in (one, other):
            assert (unfinished.parent, unfinished.suffix) == (tmp_path, ".tmp")
        one.write_text("one")
        other.write_text("other")
    assert contents(tmp_path) == {"file": b"one"}


def test_content_is_on_the_disk_before_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(file: int) -> None:
        assert not (tmp_path / "file").exists()
        assert not (tmp_path / "folder").exists()
        synced.append(os.pread(file, 100, 0))

    monkeypatch.setattr(os, "fsync", sync)
    with atomic_folder(tmp_path / "folder") as unfinished:
        (unfinished / "below").mkdir()
        (unfinished / "below" / "inside").write_text("inside")
    assert synced == [b"inside"]
    (tmp_path / "folder").rename(tmp_path / "other")
    with atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("text")
    assert synced == [b"inside", b"text"]
    with atomic_write(tmp_path / "quick", durable=False) as unfinished:
        unfinished.write_text("quick")
    assert synced == [b"inside", b"text"]
