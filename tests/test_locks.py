"""Locks between processes: one holder at a time, the next is told who, a disk may have none."""

import errno
import fcntl
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from test_cell_store import IDENTITY, MASKS, some_cell
from test_corrupted import FOG, versions
from test_unpack import good_entries, make_archive
from waiting import wait_until

from ddpmseg.data.dataset_archive import unpack_folder
from ddpmseg.errors import ConfigError
from ddpmseg.features.cache import MapCache
from ddpmseg.io.locks import FolderLocks
from ddpmseg.records.cells import CellStore
from ddpmseg.runtime.gpus import least_used

Warned = Callable[[], list[str]]
NAMES = {"b": "the last is being used", "a": "the first is being used"}
HOLDER = """
import sys
from pathlib import Path
from ddpmseg.io.locks import FolderLocks
with FolderLocks(Path(sys.argv[1])).hold({"b": "", "a": "the first is being used"}):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the locks 'a' and 'b' until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_lock_is_waited_for_and_goes_with_its_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held = threading.Event()

    def wait() -> None:
        with FolderLocks(tmp_path).hold(NAMES):
            held.set()

    with held_by_another(tmp_path) as holder, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        says = rf"the first is being used by process {holder.pid} on \S+: waiting"
        wait_until(lambda: re.search(says, caplog.text))
        assert not held.is_set()
        holder.kill()
        waiting.result(timeout=60)
    assert held.is_set()


def test_a_lock_can_be_refused(tmp_path: Path) -> None:
    locks = FolderLocks(tmp_path)
    with held_by_another(tmp_path) as holder:
        says = rf"^the first is being used by process {holder.pid} on \S+\. Come back later\.$"
        with (
            pytest.raises(ConfigError, match=says),
            locks.hold(NAMES | {"0": ""}, refuse="Come back later."),
        ):
            pytest.fail("held by two")
        # What was taken before the refusal is free again.
        with locks.hold({"0": "", "c": ""}):
            assert [locks.is_held(name) for name in "0abcd"] == [True, True, True, True, False]
            assert locks.take("c") is None
    assert not locks.is_held("a")
    taken = locks.take("a")
    assert taken is not None
    assert locks.is_held("a")
    taken.release()
    assert not locks.is_held("a")


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    locks = FolderLocks(tmp_path)
    with pytest.raises(ZeroDivisionError), locks.hold(NAMES):
        _ = 1 / 0
    with locks.hold(NAMES, refuse="Never."):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_told_once(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(number, "No locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    locks = FolderLocks(tmp_path)
    with locks.hold(NAMES), locks.hold(NAMES, refuse="Never."):
        assert FolderLocks(tmp_path).take("a") is not None
        # Nobody can say that it is not.
        assert locks.is_held("a")
    says = f"'{tmp_path}' has no locks (No locks): start one command at a time there"
    assert [record.getMessage() for record in caplog.records] == [says]


def test_another_error_is_none_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), FolderLocks(tmp_path).hold(NAMES):
        pytest.fail("held")


def test_a_sweep_on_a_disk_without_locks(disk_without_locks: Warned, tmp_path: Path) -> None:
    store = CellStore(tmp_path / "sweep")
    store.claim(IDENTITY, {}, "seed: 0\n")
    for wait in (True, False):
        with store.held([5, 50], wait=wait), store.reporting():
            store.write(some_cell(0, 5, 0), MASKS)
    assert store.done() == {(0, 5, 0)}
    store.clear()
    assert store.done() == set()
    assert disk_without_locks() == [str(store.folder)]


def test_a_cache_on_a_disk_without_locks(disk_without_locks: Warned, tmp_path: Path) -> None:
    cache = MapCache(tmp_path / "maps", 1e9)
    for number in range(2):
        name = f"{number:032x}_t0050"
        with cache.hold([name]):
            cache.write(name, {1: torch.ones(2, 2, 3)})
        assert cache.holds(name, [1])
    assert disk_without_locks() == [str(cache.folder)]


def test_gpus_on_a_disk_without_locks(disk_without_locks: Warned, tmp_path: Path) -> None:
    for _ in range(2):
        found = least_used(["0", "1"], tmp_path)
        assert found is not None
        assert found[0] == "0"
    assert disk_without_locks() == [str(tmp_path)]


def test_corrupted_images_on_a_disk_without_locks(
    disk_without_locks: Warned, tmp_path: Path
) -> None:
    made = versions(tmp_path)
    split = made.version(FOG)
    (made.path(FOG) / "scene_1.png").unlink()
    assert [sample.name for sample in split] == ["scene_1", "scene_2", "scene_3"]
    assert (made.path(FOG) / "scene_1.png").exists()
    assert disk_without_locks() == [str(tmp_path)]


def test_an_archive_on_a_disk_without_locks(disk_without_locks: Warned, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "sets.tar", *good_entries())
    unpack_folder(archive, "horses", tmp_path / "data" / "mine")
    assert (tmp_path / "data" / "mine" / "real" / "train" / "a.png").exists()
    assert disk_without_locks() == [str(tmp_path / "data")]
