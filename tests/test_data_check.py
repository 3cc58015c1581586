"""`data check`: every kind of damage is told, with the file that is to blame."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_run import CONF, ROOT

from ddpmseg.__main__ import main
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.digests import (
    FileDigests,
    SplitDigest,
    known_files,
    known_splits,
    manifest_path,
    split_digest,
    write_manifest,
)
from ddpmseg.data.inspection import SplitFolders, SplitInspection, inspect_folder
from ddpmseg.errors import DataError

SIZE = 8
SPLITS = [SplitFolders("train", "real/train"), SplitFolders("test", "real/test")]


def save_pair(folder: Path, stem: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(
        folder / f"{stem}.png"
    )
    np.save(folder / f"{stem}.npy", draw.integers(0, 11, (SIZE, SIZE), dtype=np.uint8))


@dataclass
class Known:
    """A good folder, and what is known of it."""

    root: Path
    splits: dict[str, SplitDigest]
    files: FileDigests

    def problems(self, by_file: bool = True) -> list[str]:
        files = self.files if by_file else None
        return [p for check in self.checks(self.splits, files) for p in check.problems]

    def checks(
        self, splits: dict[str, SplitDigest], files: FileDigests | None
    ) -> list[SplitInspection]:
        classes = load_class_table("ponies")
        return inspect_folder(self.root, SPLITS, classes, False, splits, files)


@pytest.fixture
def good(tmp_path: Path) -> Known:
    root = tmp_path / "set"
    for number, (split, count) in enumerate((("train", 3), ("test", 2))):
        for index in range(count):
            save_pair(root / "real" / split, f"h{number}{index}", 10 * number + index)
    splits = {
        f"real/{split}": SplitDigest(
            count, *(split_digest((root / "real" / split).glob(f"*.{s}")) for s in ("npy", "png"))
        )
        for split, count in (("train", 3), ("test", 2))
    }
    return Known(root, splits, FileDigests.of(root))


def test_a_good_folder_has_no_problems(good: Known) -> None:
    train, test = good.checks(good.splits, good.files)
    assert not train.problems
    assert not test.problems
    assert train.verified == test.verified == ["masks", "images"]
    assert train.listing is not None
    assert len(train.listing.pairs) == 3
    assert (dict(train.sizes), dict(train.dtypes)) == ({"8x8": 3}, {"uint8": 3})
    labels = np.stack([np.load(path) for path in (good.root / "real/train").glob("*.npy")])
    assert train.pixels.tolist() == np.bincount(labels.ravel(), minlength=256).tolist()
    held = [(labels == label).any(axis=(1, 2)).sum() for label in range(256)]
    assert train.images_with.tolist() == held


def missing_split(train: Path) -> None:
    shutil.rmtree(train)


def empty_split(train: Path) -> None:
    for path in train.iterdir():
        path.unlink()


def missing_image(train: Path) -> None:
    (train / "h01.png").unlink()


def missing_mask(train: Path) -> None:
    (train / "h01.npy").unlink()


def missing_pair(train: Path) -> None:
    missing_image(train)
    missing_mask(train)


def mask_too_many(train: Path) -> None:
    shutil.copy(train / "h01.npy", train / "h01x.npy")


def pair_too_many(train: Path) -> None:
    save_pair(train, "h01x", 99)


def two_images_one_mask(train: Path) -> None:
    for suffix in ("jpg", "webp"):
        Image.open(train / "h01.png").save(train / f"h01x.{suffix}")


def truncated_image(train: Path) -> None:
    (train / "h01.png").write_bytes((train / "h01.png").read_bytes()[:-60])


def truncated_mask(train: Path) -> None:
    (train / "h01.npy").write_bytes((train / "h01.npy").read_bytes()[:-1])


def labels_of_another_set(train: Path) -> None:
    np.save(train / "h01.npy", np.full((SIZE, SIZE), 33, np.uint8))


def size_of_another_set(train: Path) -> None:
    np.save(train / "h01.npy", np.zeros((4, 6), np.uint8))


def floating_mask(train: Path) -> None:
    np.save(train / "h01.npy", np.load(train / "h01.npy").astype(np.float32))


def other_type(train: Path) -> None:
    np.save(train / "h01.npy", np.load(train / "h01.npy").astype(np.int32))


def coloured_mask(train: Path) -> None:
    np.save(train / "h01.npy", np.zeros((SIZE, SIZE, 3), np.uint8))


def not_square(train: Path) -> None:
    Image.fromarray(np.zeros((SIZE, 5, 3), np.uint8)).save(train / "h01.png")


def changed_mask(train: Path) -> None:
    mask = np.load(train / "h01.npy")
    mask[0, 0] = (mask[0, 0] + 1) % 11
    np.save(train / "h01.npy", mask)


def changed_image(train: Path) -> None:
    pixels = np.array(Image.open(train / "h01.png"))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(train / "h01.png")


def in_both_splits(train: Path) -> None:
    """Under another name, and stored in another way."""
    Image.open(train / "h01.png").save(train.parent / "test" / "z.png", compress_level=0)
    shutil.copy(train / "h01.npy", train.parent / "test" / "z.npy")


DAMAGE: list[tuple[Callable[[Path], None], list[str]]] = [
    (missing_split, ["there is no folder", "real/train' of images"]),
    (empty_split, ["no images in", "real/train'"]),
    (missing_image, ["h01.npy' has no image", "has 2 pairs, the paper's has 3"]),
    (missing_mask, ["h01.png' has no mask: expected 'h01.npy'"]),
    (missing_pair, ["has 2 pairs", "'h01.npy' is missing from", "'h01.png' is missing from"]),
    (mask_too_many, ["h01x.npy' has no image"]),
    (pair_too_many, ["has 4 pairs", "h01x.png' is not among the images", "one file too many"]),
    (two_images_one_mask, ["images 'h01x.jpg' and 'h01x.webp'", "would share one mask"]),
    (truncated_image, ["h01.png' cannot be decoded: it is truncated"]),
    (truncated_mask, ["h01.npy' cannot be read: it is truncated"]),
    (labels_of_another_set, ["h01.npy' has the label 33", "allows 0..10 and 255"]),
    (size_of_another_set, ["h01.npy' is 6x4, but image", "h01.png' is 8x8"]),
    (floating_mask, ["h01.npy' is an array of shape (8, 8) and type float32"]),
    (coloured_mask, ["h01.npy' is an array of shape (8, 8, 3)"]),
    (other_type, ["differ in type: 2 of uint8, 1 of int32"]),
    (not_square, ["h01.png' is 5x8; images must be square", "h01.npy' is 8x8, but image"]),
    (changed_mask, ["h01.npy' has changed: its SHA-256 begins"]),
    (changed_image, ["h01.png' has changed: its SHA-256 begins"]),
    (in_both_splits, ["z.png' is the same picture as", "h01.png' of another split"]),
]


@pytest.mark.parametrize(("spoil", "says"), DAMAGE, ids=lambda v: getattr(v, "__name__", ""))
def test_every_damage_is_told_with_its_file(
    good: Known, spoil: Callable[[Path], None], says: list[str]
) -> None:
    spoil(good.root / "real" / "train")
    told = "\n".join(good.problems())
    for part in says:
        assert part in told
    others = {"h00.png", "h00.npy", "h02.png", "h02.npy", "h10.png", "h11.npy"}
    if spoil not in (missing_split, empty_split, two_images_one_mask):
        assert not [name for name in others if name in told]


@pytest.mark.parametrize("spoil", [changed_mask, changed_image, pair_too_many, missing_pair])
def test_a_digest_of_the_split_alone_says_that_it_differs(
    good: Known, spoil: Callable[[Path], None]
) -> None:
    for path in good.root.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    spoil(good.root / "real" / "train")
    told = "\n".join(good.problems(by_file=False))
    assert "of 'real/train' are not the paper's: SHA-256 over names and contents is" in told
    if spoil is changed_mask:
        assert told.startswith("the masks of")
        assert f"known is {good.splits['real/train'].masks}" in told
        assert "h01.npy' was written last" in told
        assert "the images of" not in told


def test_a_set_of_ones_own_is_checked_without_digests(good: Known) -> None:
    assert [check.problems for check in good.checks({}, None)] == [[], []]
    changed_mask(good.root / "real" / "train")
    assert [check.problems for check in good.checks({}, None)] == [[], []]
    missing_mask(good.root / "real" / "train")
    assert len(good.checks({}, None)[0].problems) == 1


def test_masks_in_their_own_folder(good: Known) -> None:
    (good.root / "labels").mkdir()
    for path in (good.root / "real/train").glob("*.npy"):
        Image.fromarray(np.load(path)).save(good.root / "labels" / f"{path.stem}.png")
        path.unlink()
    splits = [SplitFolders("train", "real/train", "labels"), SPLITS[1]]
    classes = load_class_table("ponies")
    train, _ = inspect_folder(good.root, splits, classes, False, {}, None)
    assert not train.problems
    assert int(train.pixels.sum()) == 3 * SIZE**2


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    assert split_digest([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(b"a1b2").hexdigest()


def test_a_list_of_files_that_cannot_be_read(tmp_path: Path) -> None:
    manifest_path(tmp_path / "mine").write_text("0123  mine/a.png\nnonsense\n")
    with pytest.raises(DataError, match=r"line 2 of '.*mine\.sha256' is no digest and name"):
        known_files("mine", tmp_path / "mine")


def test_the_papers_sets_are_known_by_the_counts_of_their_tables() -> None:
    for path in (CONF / "dataset").glob("*.yaml"):
        splits = known_splits(path.stem)
        assert bool(splits) == (path.stem not in ("ponies", "folder"))
        if splits:
            table = load_class_table(path.stem)
            assert splits["real/test"].pairs == table.num_test
            assert splits["real/train"].pairs >= (table.num_labelled or 0)
        for split in splits.values():
            assert len(split.masks) == len(split.images) == 64


@pytest.mark.parametrize("name", ["horse_21", "celeba_19"])
def test_files_known_singly_are_those_of_the_splits(name: str) -> None:
    files = known_files(name, ROOT / "nowhere")
    assert files is not None
    for folder, split in known_splits(name).items():
        names = list(files.below(folder).sha256)
        assert sum(name.endswith(".npy") for name in names) == split.pairs
        assert len(names) == 2 * split.pairs


def run(root: Path, *overrides: str) -> int:
    return main(["data", "check", *overrides, f"dataset.root={root}", "--config-dir", str(CONF)])


@pytest.fixture
def folder(good: Known) -> tuple[str, ...]:
    table = {
        "name": "mine",
        "ignore_label": 255,
        "classes": [{"name": f"part {label}"} for label in range(11)],
    }
    (good.root.parent / "classes.yaml").write_text(yaml.safe_dump(table))
    return ("folder", f"dataset.classes={good.root.parent / 'classes.yaml'}")


def test_the_command_prints_a_table_and_succeeds(
    good: Known, folder: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[:4] = 3
    np.save(good.root / "real/test/h10.npy", mask)
    np.save(good.root / "real/test/h11.npy", mask)
    assert run(good.root, *folder) == 0
    out = capsys.readouterr().out
    assert "real/train: 3 images with masks; 8x8; masks uint8\n" in out
    _, _, table = out.partition("real/test:")
    rows = [line.split() for line in table.splitlines()]
    assert ["3", "part", "3", "50.000", "2"] in rows
    assert ["4", "part", "4", "0.000", "0"] in rows
    assert ["255", "(ignored)", "50.000", "2"] in rows
    assert "no test image holds 'part 0'" in out
    assert "no digests of this set are known" in out
    assert out.endswith("nothing found wrong\n")


def test_the_command_fails_with_status_1_and_tells(
    good: Known, folder: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    missing_mask(good.root / "real/train")
    np.save(good.root / "real/test/h10.npy", np.zeros((SIZE, SIZE), np.float32))
    assert run(good.root, *folder) == 1
    out = capsys.readouterr().out
    assert out.count("\nerror: ") == 2
    assert "h01.png' has no mask" in out
    assert out.endswith("2 found wrong\n")


def test_the_command_with_a_missing_split(
    good: Known, folder: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    missing_split(good.root / "real/train")
    assert run(good.root, *folder) == 1
    assert "real/train: nothing to read" in capsys.readouterr().out


def test_what_was_unpacked_is_held_against_its_list(
    good: Known, folder: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(good.root, good.files)
    assert run(good.root, *folder) == 0
    assert "masks and images: as known, by SHA-256" in capsys.readouterr().out
    changed_mask(good.root / "real/train")
    assert run(good.root, *folder) == 1
    assert "h01.npy' has changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["horse_21", "dataset.root=/nowhere"], "`ddpmseg data get horse_21`"),
        (["ponies"], "`dataset=ponies` is drawn when asked for"),
        (["zebras"], "Could not find 'dataset/zebras'"),
        (["folder"], "has no value yet"),
    ],
)
def test_mistakes_have_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", *arguments, "--config-dir", str(CONF)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "splits"), [("horse_21", 3), ("celeba_19", 2)])
def test_the_real_sets_pass(
    real_data: Path, name: str, splits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(real_data / name, name) == 0
    out = capsys.readouterr().out
    assert out.count("masks and images: as known, by SHA-256") == splits


@pytest.mark.realdata
def test_a_real_file_that_changed_is_named(
    real_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(real_data / "horse_21" / "real", tmp_path / "real")
    path = sorted((tmp_path / "real/test").glob("*.npy"))[7]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert run(tmp_path, "horse_21") == 1
    out = capsys.readouterr().out
    assert f"'{path}' has changed" in out
    assert out.count("\nerror: ") == 1
