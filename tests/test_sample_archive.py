"""`data unpack`: the authors' archives of synthetic images become folders that `distill` reads."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import contents

from ddpmseg.__main__ import INTERRUPTED, main
from ddpmseg.data.convert.sample_archive import SampleArchive
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import DataError
from ddpmseg.records.samples import SampleFolder

SCENES = [draw_pony(index, "pretrain", 0, 16) for index in range(4)]
UNCERTAINTIES = np.array([0.25, 0.125, 0.5, 0.375], np.float32)


@pytest.fixture(params=["ddpm", "gan"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three arrays without compression, or four with it."""
    arrays = [np.stack([image for image, _ in SCENES]), np.stack([mask for _, mask in SCENES])]
    if request.param == "gan":
        latents = np.zeros((4, 8), np.float32)
        np.savez_compressed(tmp_path / "samples.npz", *arrays, latents, UNCERTAINTIES)
    else:
        np.savez(tmp_path / "samples.npz", *arrays, UNCERTAINTIES)
    return tmp_path / "samples.npz"


def unpack(archive: Path, output: Path, *options: str) -> int:
    return main(["data", "unpack", str(archive), str(output), "--classes", "ponies", *options])


def test_the_folder_holds_what_the_archive_does(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "samples"
    assert unpack(archive, output) == 0
    assert "4 images of 16 pixels" in capsys.readouterr().out
    for index, (image, mask) in enumerate(SCENES):
        with Image.open(output / f"{index:06d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)
        np.testing.assert_array_equal(np.load(output / f"{index:06d}.npy"), mask)
    with (output / "uncertainty.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["uncertainty"]) for row in rows] == UNCERTAINTIES.tolist()


def test_it_goes_on_where_it_was_stopped(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "samples"
    assert unpack(archive, whole) == 0
    written, write = [], SampleFolder.write_image

    def stopping(self: SampleFolder, index: int, image) -> None:
        if index == 2 and len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        write(self, index, image)

    monkeypatch.setattr(SampleFolder, "write_image", stopping)
    assert unpack(archive, output) == INTERRUPTED
    written.append(-1)
    assert unpack(archive, output) == 0
    assert written == [0, 1, -1, 2, 3]
    assert contents(output) == contents(whole)


def test_only_the_first(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unpack(archive, tmp_path / "few", "--num", "2") == 0
    assert SampleFolder(tmp_path / "few").num_images() == 2
    assert unpack(archive, tmp_path / "none", "--num", "5") == 2
    assert "`--num 5`: must lie in 1..4" in capsys.readouterr().err
    assert unpack(tmp_path / "no.npz", tmp_path / "none") == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ([np.zeros((2, 4, 4, 3), np.uint8)], "holds 1 arrays"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 5, 5), np.uint8), np.ones(2)],
         r"shapes \(2, 4, 4, 3\), \(2, 5, 5\) and \(2,\)"),
        ([np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), np.ones(2)], "arr_0 as float64"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8), np.array([{}, {}])],
         "arr_2 as object"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.int8), np.ones(2)],
         "arr_1 as int8"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(arrays: list[np.ndarray], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", *arrays)
    with pytest.raises(DataError, match=says):
        SampleArchive(tmp_path / "other.npz")


def test_damage_and_unknown_labels_are_told(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = archive.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is damaged"):
        SampleArchive(tmp_path / "cut.npz")
    middle = len(content) // 4
    broken = content[:middle] + bytes(255 - byte for byte in content[middle : middle + 20])
    (tmp_path / "broken.npz").write_bytes(broken + content[middle + 20 :])
    with pytest.raises(DataError, match="is damaged"):
        list(SampleArchive(tmp_path / "broken.npz"))
    masks = np.full((2, 4, 4), 77, np.uint8)
    np.savez(tmp_path / "labels.npz", np.zeros((2, 4, 4, 3), np.uint8), masks, np.ones(2))
    assert unpack(tmp_path / "labels.npz", tmp_path / "out") == 2
    assert "labels.npz, image 0' has the label 77" in capsys.readouterr().err
