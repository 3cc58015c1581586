"""Records of cells on disk: whole or not at all, damaged ones found, one writer at a time."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tiny_run import contents
from waiting import wait_until

from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.cell_grid import Cell
from ddpmseg.records.cells import CellStore
from ddpmseg.records.identity import Identity

REQUEST = {"seed": 0, "dataset.name": "ponies", "sweep.noise": "shared"}
DIGESTS = {"weights": "a" * 64, "images": "b" * 64}
IDENTITY = Identity(REQUEST, {"device": "cpu", "backbone_precision": "32"}, DIGESTS)
KEYS = [(0, 5, 0), (0, 50, 0), (11, 999, 3)]
MASKS = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)


def some_cell(block: int, timestep: int, seed: int, seconds: float = 1.25) -> Cell:
    generator = torch.Generator().manual_seed(1000 * block + 10 * timestep + seed)
    return Cell(block, timestep, seed, torch.randint(50, (4, 3), generator=generator), seconds)


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    """Three finished cells, and one of a control."""
    store = CellStore(tmp_path / "out" / "sweep")
    store.claim(IDENTITY, {}, "seed: 0\n")
    for key in KEYS:
        store.write(some_cell(*key), MASKS)
    store.write(some_cell(0, 0, 0), MASKS, "pixels")
    return store


def record(store: CellStore, index: int = 1) -> Path:
    block, timestep, seed = KEYS[index]
    return store.folder / "cells" / f"b{block:02d}_t{timestep:04d}_s{seed}.json"


def test_cells_come_back(store: CellStore) -> None:
    again = CellStore(store.folder)
    assert again.done() == set(KEYS)
    assert again.done("pixels") == {(0, 0, 0)}
    assert again.done("random") == set()
    found = again.read()
    assert [cell.key for cell in found] == KEYS
    for cell in found:
        expected = some_cell(*cell.key)
        assert torch.equal(cell.counts, expected.counts)
        assert (cell.counts.dtype, cell.seconds) == (torch.int64, 1.25)
        np.testing.assert_array_equal(again.masks(cell.key), MASKS)
    assert [cell.key for cell in again.read("pixels")] == [(0, 0, 0)]
    assert again.drop_damaged() == []
    assert not list(store.folder.rglob("*.tmp"))


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)), st.integers(0, 2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_masks_come_back(tmp_path: Path, one: np.ndarray, more: int) -> None:
    size = min(one.shape)
    masks = np.stack([one[:size, :size]] * (1 + more))
    store = CellStore(tmp_path)
    store.write(some_cell(1, 2, 3), masks)
    np.testing.assert_array_equal(store.masks((1, 2, 3)), masks)


def test_no_masks_are_wanted(store: CellStore) -> None:
    store.write(some_cell(1, 2, 3), np.zeros((0, 4, 4), np.uint8))
    assert len(store.masks((1, 2, 3))) == 0


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(128, 256)))


def no_record(path: Path) -> None:
    path.write_text("[1, 2, 3]")


def change(key: str, value: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return spoil


DAMAGES = [
    (truncate, r"damaged \(.*column \d+"),
    (empty, r"damaged \(Expecting value"),
    (garbage, r"damaged \(.*codec can't decode"),
    (no_record, r"damaged"),
    (change("version", 7), r"damaged \(format 7, not 1\)"),
    (change("timestep", 51), r"damaged \(it is of cell \(0, 51, 0\)\)"),
    (change("counts", [[1, 2], [3, 4]]), r"damaged \(its counts are no table of 3 x 2\)"),
    (change("counts", [[1, 2], [3]]), r"damaged"),
    (change("counts", None), r"damaged"),
    (change("seconds", None), r"damaged"),
    (change("masks", "no base64!"), r"damaged"),
    (change("masks", "aaaa"), r"damaged"),
]


@pytest.mark.parametrize(("spoil", "says"), DAMAGES)
def test_damaged_record_goes_and_the_others_stay(
    store: CellStore, spoil: Callable[[Path], None], says: str
) -> None:
    path = record(store)
    before = contents(store.folder)
    spoil(path)
    with pytest.raises(DataError, match=rf"record '{path}' is {says}.*Repeat the command"):
        store.read()
    (told,) = store.drop_damaged()
    assert str(path) in told
    left = contents(store.folder)
    del before[str(path.relative_to(store.folder))]
    assert left == before
    assert store.done() == {KEYS[0], KEYS[2]}
    assert [cell.key for cell in store.read()] == [KEYS[0], KEYS[2]]


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_whatever_happened_to_a_record_it_is_read_or_refused(
    store: CellStore, data: st.DataObject
) -> None:
    path = record(store)
    store.write(some_cell(*KEYS[1]), MASKS)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] = data.draw(st.integers(0, 255))
    else:
        del content[place : place + data.draw(st.integers(1, len(content)))]
    path.write_bytes(content)
    try:
        cell = store.read()[1]
    except DataError:
        assert len(store.drop_damaged()) == 1
    else:
        assert cell.key == KEYS[1]
        assert isinstance(cell.seconds, float)


def test_other_files_beside_the_records_are_left_alone(store: CellStore) -> None:
    others = ["b00_t0005_s0 (copy).json", "bad_t_s.json", ".b00_t0005_s0.json.tmp", "notes.txt"]
    for name in others:
        (store.folder / "cells" / name).write_text("not ours")
    assert store.done() == set(KEYS)
    assert store.drop_damaged() == []
    assert len(store.read()) == 3
    assert {path.name for path in (store.folder / "cells").iterdir()} >= set(others)


def test_two_may_write_the_same_record(store: CellStore) -> None:
    """As two jobs of a multirun do that compute the same control."""
    masks = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)

    def write(seconds: float) -> None:
        for _ in range(50):
            CellStore(store.folder).write(some_cell(0, 0, 0, seconds), masks, "pixels")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (1.0, 2.0)))
    np.testing.assert_array_equal(store.masks((0, 0, 0), "pixels"), masks)
    assert not list(store.folder.rglob("*.tmp"))


def test_full_disk_keeps_what_is_there(store: CellStore, full_disk: Callable[[Path], None]) -> None:
    before = contents(store.folder)
    full_disk(record(store))
    says = r"cannot be written to \(No space left on device\)\. Make room, and repeat"
    with pytest.raises(DataError, match=says):
        store.write(some_cell(*KEYS[1], seconds=9.0), MASKS)
    assert contents(store.folder) == before
    assert not list(store.folder.rglob("*.tmp"))


def test_full_disk_when_the_folder_is_claimed(
    store: CellStore, full_disk: Callable[[Path], None]
) -> None:
    before = contents(store.folder)
    full_disk(store.folder / "sweep.json")
    with pytest.raises(DataError, match="No space left on device"):
        store.claim(IDENTITY, {}, "seed: 0\n")
    assert contents(store.folder) == before


def test_same_request_is_welcome(store: CellStore) -> None:
    store.check(IDENTITY)
    store.check(Identity(REQUEST), settings_only=True)
    store.claim(IDENTITY, {"command": "ddpmseg sweep"}, "seed: 0\n# later\n")
    assert store.record()["command"] == "ddpmseg sweep"
    assert store.identity() == IDENTITY
    assert (store.folder / "config.yaml").read_text() == "seed: 0\n# later\n"
    assert store.done() == set(KEYS)


OTHERS = [
    ({"settings": REQUEST | {"seed": 1}}, r"`seed` was 0, is 1\. Choose another"),
    (
        {"settings": REQUEST | {"sweep.noise": "fresh", "seed": 1}},
        r"`seed` was 0, is 1 \(and 1 more\)\. Choose",
    ),
    ({"settings": REQUEST | {"new": 3}}, r"`new` was not recorded, is 3"),
    ({"digests": DIGESTS | {"weights": "c" * 64}}, r"the weights was a{12}, is c{12}\."),
    ({"digests": DIGESTS | {"images": "c" * 64}}, r"the images was b{12}, is c{12}\."),
    (
        {"arithmetic": {"device": "cuda", "backbone_precision": "32"}},
        r"device was cpu, is cuda\.",
    ),
]


@pytest.mark.parametrize(("changed", "says"), OTHERS)
def test_another_request_is_refused(store: CellStore, changed: dict, says: str) -> None:
    before = contents(store.folder)
    for attempt in (store.check, lambda wanted: store.claim(wanted, {}, "other: 1\n")):
        with pytest.raises(ConfigError, match=rf"{store.folder}' holds the cells of .*{says}"):
            attempt(replace(IDENTITY, **changed))
    assert contents(store.folder) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"version": 3, "identity": {}}', r"in format 3; this program reads formats up to 2"),
        ("{", r"sweep\.json' is damaged"),
        ("[]", r"sweep\.json' is damaged"),
        ("{}", r"sweep\.json' is damaged"),
        ('{"version": 1}', r"sweep\.json' is damaged"),
        ('{"version": 1, "request": 5}', r"sweep\.json' is damaged"),
    ],
)
def test_identity_that_cannot_be_trusted(store: CellStore, text: str, says: str) -> None:
    (store.folder / "sweep.json").write_text(text)
    before = contents(store.folder)
    for attempt in (store.check, lambda wanted: store.claim(wanted, {}, "other: 1\n")):
        with pytest.raises(ConfigError, match=says):
            attempt(IDENTITY)
    assert contents(store.folder) == before


def test_cells_of_nobody_knows_what_are_not_adopted(store: CellStore) -> None:
    (store.folder / "sweep.json").unlink()
    with pytest.raises(ConfigError, match=r"holds cells, but 'sweep\.json' .* is missing"):
        store.claim(IDENTITY, {}, "")
    with pytest.raises(ConfigError, match=r"is not the folder of a sweep: there is no"):
        store.identity()


def test_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(
        DataError, match=r"taken/sweep/cells' cannot be written to \(Not a directory\)"
    ):
        CellStore(tmp_path / "taken" / "sweep").claim(IDENTITY, {}, "")


def test_a_timestep_is_held_by_one(store: CellStore) -> None:
    other = CellStore(store.folder)
    with store.held([5, 50]):
        with other.held([6]):
            pass
        says = r"t = 50 of '.*' is being computed by process \d+ on .*\. Wait for it"
        with pytest.raises(ConfigError, match=says), other.held([49, 50]):
            pytest.fail("held by two")
        # What was taken before the refusal is free again.
        with other.held([49]):
            pass
    with other.held([5, 50]):
        pass


def test_a_timestep_is_waited_for_in_a_multirun(
    store: CellStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def wait() -> set[tuple[int, int, int]]:
        with CellStore(store.folder).held([50, 5], wait=True):
            return store.done()

    with ThreadPoolExecutor(1) as pool:
        with store.held([5]):
            waiting = pool.submit(wait)
            says = r"t = 5 of '.*' is being computed by process \d+ on .*: waiting"
            wait_until(lambda: re.search(says, caplog.text))
            store.write(some_cell(7, 5, 0), MASKS)
        assert (7, 5, 0) in waiting.result(timeout=60)


def test_a_timestep_is_free_after_an_error(store: CellStore) -> None:
    with pytest.raises(ZeroDivisionError), store.held([5]):
        _ = 1 / 0
    with CellStore(store.folder).held([5]):
        pass


HOLDER = """
import sys
from pathlib import Path
from ddpmseg.records.cells import CellStore
from ddpmseg.records.identity import Identity

with CellStore(Path(sys.argv[1])).held([5]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_process_holds_nothing(store: CellStore) -> None:
    command = [sys.executable, "-c", HOLDER, str(store.folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} on"), store.held([5]):
            pytest.fail("held by two")
        with pytest.raises(ConfigError, match=f"process {holder.pid} on"):
            store.clear()
        assert store.done() == set(KEYS)
        holder.kill()
        assert holder.wait() == -9
    with store.held([5]):
        pass


def test_clear_leaves_nothing_of_the_cells(store: CellStore) -> None:
    made = ("examples.npz", "cells.csv", "report.html", "figures/one.png", "findings.txt")
    (store.folder / "figures").mkdir()
    for name in made:
        (store.folder / name).write_text("of the cells")
    (store.folder / "notes.txt").write_text("precious")
    store.clear()
    left = {name for name in contents(store.folder) if not name.startswith(".locks/")}
    assert left == {"config.yaml", "notes.txt"}
    assert store.done() == store.done("pixels") == set()
    store.claim(Identity({"seed": 5}), {}, "seed: 5\n")


def test_clear_where_there_is_nothing(tmp_path: Path) -> None:
    CellStore(tmp_path / "none").clear()
    assert not list(tmp_path.iterdir())
