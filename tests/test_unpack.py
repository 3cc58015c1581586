"""One folder out of an archive: whole or not at all, and nothing anywhere else."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_run import contents

from ddpmseg.data.dataset_archive import unpack_folder
from ddpmseg.data.digests import known_files, manifest_path
from ddpmseg.errors import DataError
from ddpmseg.io.files import file_sha256

FILES = {
    "horses/real/train/a.png": b"image",
    "horses/real/train/a.npy": b"mask",
    "cats/real/train/a.png": b"cat",
}


def entry(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def make_archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def good_entries(above: str = "") -> list[tuple[tarfile.TarInfo, bytes]]:
    return [entry(above + name, content) for name, content in FILES.items()]


def refusal(archive: Path, root: Path, name: str = "horses") -> str:
    with pytest.raises(DataError) as caught:
        unpack_folder(archive, name, root)
    assert not root.exists()
    assert {path.name for path in root.parent.iterdir()} <= {".locks"}
    return str(caught.value)


@pytest.mark.parametrize("above", ["", "./", "datasets/"])
@pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz"])
def test_only_the_named_folder_is_unpacked(tmp_path: Path, above: str, mode: str) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries(above), mode=mode)
    root = tmp_path / "data" / "mine"
    unpack_folder(archive, "horses", root)
    assert contents(root) == {"real/train/a.npy": b"mask", "real/train/a.png": b"image"}
    assert {path.name for path in root.parent.iterdir()} == {"mine", "mine.sha256", ".locks"}


def test_the_digest_of_every_file_is_listed_beside_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "data" / "mine"
    unpack_folder(make_archive(tmp_path / "sets.tar", *good_entries()), "horses", root)
    digest = file_sha256(root / "real/train/a.npy")
    assert f"{digest}  mine/real/train/a.npy\n" in manifest_path(root).read_text()
    known = known_files("mine", root)
    assert known is not None
    assert known.sha256["real/train/a.npy"] == digest


def test_a_folder_that_holds_something_stays(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.txt").write_text("precious")
    unpack_folder(archive, "horses", tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"own.txt": b"precious"}


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries())
    for folder in (".mine.0123abcd.tmp", "mine"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".mine.0123abcd.tmp" / "half").write_bytes(b"half")
    unpack_folder(archive, "horses", tmp_path / "mine")
    assert set(contents(tmp_path / "mine")) == {"real/train/a.npy", "real/train/a.png"}
    assert not (tmp_path / ".mine.0123abcd.tmp").exists()


EVIL = [
    (entry("../evil", b"x"), "outside"),
    (entry("horses/../../evil", b"x"), "outside"),
    (entry("/tmp/ddpmseg_evil", b"x"), "outside"),
    (entry("cats/../../evil", b"x"), "outside"),
    (entry("horses/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link"),
    (entry("horses/link", type=tarfile.SYMTYPE, linkname="real"), "link"),
    (entry("horses/hard", type=tarfile.LNKTYPE, linkname="horses/real/train/a.png"), "link"),
    (entry("horses/pipe", type=tarfile.FIFOTYPE), "device"),
    (entry("horses/disk", type=tarfile.BLKTYPE), "device"),
    (entry("horses/null", type=tarfile.CHRTYPE), "device"),
]


@pytest.mark.parametrize(("evil", "says"), EVIL, ids=lambda v: getattr(v, "name", ""))
def test_what_could_end_up_elsewhere_is_refused(
    tmp_path: Path, evil: tuple[tarfile.TarInfo, bytes], says: str
) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries(), evil)
    message = refusal(archive, tmp_path / "below" / "mine")
    assert f"'{evil[0].name}' in archive '{archive}'" in message
    assert says in message
    assert "Nothing was unpacked" in message
    assert not list(tmp_path.rglob("*evil*"))


def test_permissions_are_those_of_data(tmp_path: Path) -> None:
    program = entry("horses/program", b"x", mode=0o6777, uid=0, uname="root")
    unpack_folder(make_archive(tmp_path / "sets.tar", program), "horses", tmp_path / "mine")
    assert (tmp_path / "mine" / "program").stat().st_mode & 0o6022 == 0


def test_a_folder_that_is_not_in_the_archive(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries())
    message = refusal(archive, tmp_path / "below" / "mine", "zebras")
    assert "has no folder 'zebras' with files" in message
    assert "its folders are cats, cats/real, horses, horses/real" in message


def test_a_folder_that_is_there_twice(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries("one/"), *good_entries("two/"))
    message = refusal(archive, tmp_path / "below" / "mine")
    assert "has 2 folders 'horses' with files" in message


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_truncated_archive(tmp_path: Path, kept: int) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries())
    archive.write_bytes(archive.read_bytes()[:kept])
    message = refusal(archive, tmp_path / "below" / "mine")
    assert f"archive '{archive}' is damaged or no tar archive" in message
    assert "Remove it and repeat" in message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(max_size=600), packed=st.booleans())
def test_any_bytes_are_refused(tmp_path: Path, content: bytes, packed: bool) -> None:
    (tmp_path / "any.tar").write_bytes(gzip.compress(content) if packed else content)
    refusal(tmp_path / "any.tar", tmp_path / "below" / "mine")


def test_space_is_looked_for_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries())
    usage = shutil.disk_usage(tmp_path)._replace(free=8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refusal(archive, tmp_path / "below" / "mine")
    assert "9 bytes are needed, 8 are free" in message
    assert "another `dataset.root`" in message
