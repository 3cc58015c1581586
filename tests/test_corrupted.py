"""Corrupted versions on disk: drawn once, found again, the same whoever draws them."""

import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import contents

from ddpmseg.data import corrupted
from ddpmseg.data.corrupted import MANIFEST, CorruptedVersions
from ddpmseg.data.corruptions import Corruption, corrupt
from ddpmseg.data.labelled import LabelledSplit, Sample
from ddpmseg.errors import DataError

FOG = Corruption("fog", 3)


class Scenes(LabelledSplit):
    """Random images of 32 pixels, by the seed of each."""

    def __init__(self, seeds: Sequence[int], names: Sequence[str] | None = None) -> None:
        super().__init__(names or [f"scene_{seed}" for seed in seeds])
        self.seeds = tuple(seeds)

    def _sample(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(self.seeds[index])
        image = torch.randint(256, (3, 32, 32), generator=draw, dtype=torch.uint8)
        mask = torch.randint(2, (32, 32), generator=draw, dtype=torch.uint8)
        return Sample(image, mask, self.names[index])


def versions(folder: Path, seeds: Sequence[int] = (1, 2, 3), seed: int = 0) -> CorruptedVersions:
    return CorruptedVersions(folder, Scenes(seeds), "test", seed)


def pixels(split: LabelledSplit) -> list[list]:
    return [sample.image.permute(1, 2, 0).tolist() for sample in split]


def forbidden(*_: object) -> None:
    raise AssertionError("drawn again")


def test_images_are_corrupted_and_labels_untouched(tmp_path: Path) -> None:
    split = versions(tmp_path).version(FOG)
    assert split.names == ("scene_1", "scene_2", "scene_3")
    for clean, sample in zip(Scenes([1, 2, 3]), split, strict=True):
        assert sample.name == clean.name
        assert torch.equal(sample.mask, clean.mask)
        before = clean.image.permute(1, 2, 0).numpy()
        expected = corrupt(np.ascontiguousarray(before), FOG, 0, f"test/{clean.name}")
        np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), expected)
        assert sample.image.shape == (3, 32, 32)


def test_files_and_manifest(tmp_path: Path) -> None:
    made = versions(tmp_path)
    made.version(FOG)
    folder = made.path(FOG)
    assert folder.parent == tmp_path
    assert sorted(path.name for path in folder.iterdir()) == [
        MANIFEST, "scene_1.png", "scene_2.png", "scene_3.png",
    ]  # fmt: skip
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["type"], manifest["severity"], manifest["seed"]) == ("fog", 3, 0)
    assert "imagecorruptions-imaug" in manifest["libraries"]
    assert set(manifest["images"]) == set(manifest["clean"]) == set(made.images)
    with Image.open(folder / "scene_1.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 32))
    # Nothing unfinished is left, only locks.
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, ".locks"}


def test_what_is_there_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pixels(versions(tmp_path).version(FOG))
    monkeypatch.setattr(corrupted, "corrupt", forbidden)
    assert pixels(versions(tmp_path).version(FOG)) == first


def test_whatever_decides_the_pixels_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = versions(tmp_path)
    paths = [
        made.path(FOG),
        made.path(Corruption("fog", 1)),
        made.path(Corruption("snow", 3)),
        versions(tmp_path, seed=1).path(FOG),
        versions(tmp_path, [1, 2]).path(FOG),
        # Other images under the same names.
        CorruptedVersions(tmp_path, Scenes([1, 2, 4], made.clean.names), "test", 0).path(FOG),
        CorruptedVersions(tmp_path, Scenes([1, 2, 3], ["a", "b", "c"]), "test", 0).path(FOG),
        CorruptedVersions(tmp_path, Scenes([1, 2, 3]), "train", 0).path(FOG),
    ]
    monkeypatch.setattr(corrupted, "libraries", lambda: {"imagecorruptions-imaug": "9"})
    paths.append(versions(tmp_path).path(FOG))
    monkeypatch.setattr(corrupted, "FORMAT", 99)
    paths.append(versions(tmp_path).path(FOG))
    assert len(set(paths)) == len(paths)


def test_the_digest_of_a_set_is_of_images_and_masks_in_order(tmp_path: Path) -> None:
    class Inverted(Scenes):
        def _sample(self, index: int) -> Sample:
            sample = super()._sample(index)
            return Sample(sample.image, 1 - sample.mask, sample.name)

    sets = [Scenes([1, 2]), Scenes([2, 1]), Scenes([1, 3]), Inverted([1, 2])]
    digests = {CorruptedVersions(tmp_path, split, "test", 0).sha256 for split in sets}
    assert len(digests) == 4


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def other_pixels(path: Path) -> None:
    Image.new("RGB", (32, 32)).save(path)


@pytest.mark.parametrize("damage", [truncate, other_pixels, Path.unlink])
def test_a_damaged_image_is_drawn_again(
    damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = versions(tmp_path)
    first, before = pixels(made.version(FOG)), contents(made.path(FOG))
    path = made.path(FOG) / "scene_2.png"
    damage(path)
    assert pixels(versions(tmp_path).version(FOG)) == first
    assert f"'{path}' is damaged: it is drawn again" in caplog.text
    assert contents(made.path(FOG)) == before


@pytest.mark.parametrize("text", [None, "{", "[]", '{"images": {"scene_1": "00"}}', "{}"])
def test_a_damaged_manifest_has_all_drawn_again(
    text: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = versions(tmp_path)
    first, before = pixels(made.version(FOG)), contents(made.path(FOG))
    manifest = made.path(FOG) / MANIFEST
    manifest.unlink() if text is None else manifest.write_text(text)
    (made.path(FOG) / "left_over.png").write_text("x")
    assert pixels(versions(tmp_path).version(FOG)) == first
    assert f"'{manifest}' is damaged (" in caplog.text
    assert contents(made.path(FOG)) == before


def test_an_image_that_cannot_be_drawn_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = versions(tmp_path)
    made.version(FOG)
    truncate(made.path(FOG) / "scene_1.png")
    monkeypatch.setattr(corrupted, "corrupt", lambda image, *_: image)
    split = made.version(FOG)
    with pytest.raises(DataError, match=f"Remove the folder '{made.path(FOG)}' and repeat"):
        split[0]
    assert split[1].name == "scene_2"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    made = versions(tmp_path)
    name = made.path(FOG).name
    stale, other = tmp_path / f".{name}.0123abcd.tmp", tmp_path / ".0123.0123abcd.tmp"
    for folder in (stale, other):
        (folder / name).mkdir(parents=True)
    made.version(FOG)
    assert not stale.exists()
    assert other.exists()


def full(*_: object, **__: object) -> None:
    raise OSError(28, os.strerror(28))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = versions(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(DataError) as caught:
            made.version(FOG)
    assert str(caught.value) == (
        f"'{made.path(FOG)}' cannot be written to (No space left on device). Make room, and repeat "
        "the command: what is finished is kept."
    )
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
    assert len(pixels(made.version(FOG))) == 3


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(DataError, match="taken/corruptions' cannot be written to"):
        versions(tmp_path / "taken" / "corruptions").version(FOG)


def draw_in_a_process(folder: Path, queue, barrier) -> None:
    logging.disable()
    drawn = 0

    def counted(*arguments):
        nonlocal drawn
        drawn += 1
        return corrupt(*arguments)

    corrupted.corrupt = counted
    made = versions(folder, range(6))
    barrier.wait()
    queue.put((drawn, pixels(made.version(FOG)), drawn))


def test_two_processes_at_once_draw_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue, barrier = context.SimpleQueue(), context.Barrier(2)
    arguments = (tmp_path, queue, barrier)
    both = [context.Process(target=draw_in_a_process, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    found = [queue.get() for _ in both]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert found[0][1] == found[1][1] == pixels(versions(tmp_path, range(6)).version(FOG))
    assert sorted(drawn for *_, drawn in found) == [0, 6]
