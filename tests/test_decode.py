"""Whatever a picture file stores, it is read as a viewer shows it, or refused in a sentence."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from ddpmseg.__main__ import main
from ddpmseg.api.images import fitted_images, fitted_samples
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.images import ImageFiles, fit_image, read_image, read_mask
from ddpmseg.data.labelled import LabelledFolder
from ddpmseg.data.survey import survey
from ddpmseg.errors import DataError
from ddpmseg.runs.predict import predict

ORIENTATION = 0x0112
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Orientation -> what makes the stored pixels of the upright ones."""
PONIES = load_class_table("ponies")


def photo(side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def save_turned(pixels: np.ndarray, path: Path, orientation: int = 6, **options: Any) -> None:
    """As a telephone stores it: the pixels turned, and a note to turn them back."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(pixels).transpose(STORED[orientation])
    image.save(path, exif=exif, **options)


def read(path: Path) -> np.ndarray:
    return np.asarray(read_image(path, str(path)))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_image(path, path.name)
    return str(error.value)


# Turned photographs.


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_photographs_are_read_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    pixels = np.kron(photo(2)[:, :1], np.ones((8, 16, 1), np.uint8))  # two stripes survive JPEG
    pixels[:8, :8] = 255 - pixels[:8, :8]
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    options |= {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    save_turned(pixels[:, :12], path, orientation, **options)
    assert np.allclose(read(path).astype(int), pixels[:, :12].astype(int), atol=8)


def save_set(root: Path, turned: bool) -> None:
    for split, count in (("train", 3), ("test", 2)):
        folder = root / "real" / split
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = photo(seed=10 * count + index)
            if turned:
                save_turned(pixels, folder / f"p{index}.png", (6, 8, 3)[index])
            else:
                Image.fromarray(pixels).save(folder / f"p{index}.png")
            np.save(folder / f"p{index}.npy", pixels[..., 0] % 11)


def test_a_set_of_turned_photographs_is_the_set_of_the_upright_ones(tmp_path: Path) -> None:
    digests = []
    for name, turned in (("upright", False), ("turned", True)):
        save_set(tmp_path / name, turned)
        found = LabelledFolder("mine", "ponies", str(tmp_path / name), 8, num_labelled=3)
        digests.append(survey(found).sha256)
    assert digests[0] == digests[1]


def test_pretraining_reads_photographs_upright(tmp_path: Path) -> None:
    save_turned(photo(), tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    expected = torch.from_numpy(photo()).permute(2, 0, 1)
    assert torch.equal(ImageFiles(tmp_path, 16)[0], expected)
    assert torch.equal(ImageFiles(tmp_path / "photos.zip", 16)[0], expected)


def test_python_programs_read_photographs_upright(tmp_path: Path) -> None:
    """Also those that the program has opened."""
    save_turned(photo(), tmp_path / "a.png")
    expected = fitted_images(photo(), 16)[0]
    with Image.open(tmp_path / "a.png") as opened:
        loaded = opened.copy()
        for given in (tmp_path / "a.png", opened, loaded):
            assert torch.equal(fitted_images(given, 16)[0], expected)


def test_predict_reads_photographs_upright(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "turned").mkdir()
    Image.fromarray(photo()).save(tmp_path / "a.png")
    save_turned(photo(), tmp_path / "turned" / "a.png")
    masks = [
        predict([path], finished_run, path.parent / "out", "cpu")[0].read_bytes()
        for path in (tmp_path / "a.png", tmp_path / "turned" / "a.png")
    ]
    assert masks[0] == masks[1]


def test_masks_are_turned_with_their_photographs(tmp_path: Path) -> None:
    labels = photo()[..., 0] % 11
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = np.ascontiguousarray(np.rot90(labels))
    PONIES.indexed(stored).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "a.png", "a.png"), labels)
    with Image.open(tmp_path / "a.png") as opened:
        (sample,) = fitted_samples(photo(), opened, PONIES, 16)
    assert np.array_equal(sample.mask.numpy(), labels)


def test_a_mask_drawn_on_the_stored_pixels_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_set(tmp_path, turned=False)
    wide = np.zeros((12, 16, 3), np.uint8)
    save_turned(wide, tmp_path / "real" / "train" / "p0.png", 6)
    np.save(tmp_path / "real" / "train" / "p0.npy", np.zeros((16, 12), np.uint8))
    says = "p0.png' is 16x12, read upright: the file stores it turned, with a note (EXIF orientat"
    found = LabelledFolder("mine", "ponies", str(tmp_path), 8, 3, center_crop=True)
    with pytest.raises(DataError) as error:
        survey(found)
    assert says in str(error.value)
    settings = [f"dataset.root={tmp_path}", "dataset.classes=ponies", "dataset.center_crop=true"]
    assert main(["data", "check", "folder", *settings]) == 1
    assert says in capsys.readouterr().out


def test_data_check_notes_turned_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_set(tmp_path, turned=True)
    given = [f"dataset.root={tmp_path}", "dataset.classes=ponies"]
    assert main(["data", "check", "folder", *given]) == 0
    assert "note: 3 images of 'real/train' are stored turned" in capsys.readouterr().out


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff"])
def test_damaged_notes_of_a_camera_are_ignored(exif: bytes, tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "with.jpg", exif=exif)
    Image.fromarray(photo()).save(tmp_path / "without.jpg")
    assert np.array_equal(read(tmp_path / "with.jpg"), read(tmp_path / "without.jpg"))


# More than eight bits.


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_greys_are_those_of_8_bits(suffix: str, tmp_path: Path) -> None:
    grey = photo()[..., 0]
    Image.fromarray(grey).save(tmp_path / f"few.{suffix}")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"many.{suffix}")
    assert np.array_equal(read(tmp_path / f"many.{suffix}"), read(tmp_path / f"few.{suffix}"))
    save_turned(grey.astype(np.uint16) * 257, tmp_path / f"turned.{suffix}")
    assert np.array_equal(read(tmp_path / f"turned.{suffix}"), read(tmp_path / f"few.{suffix}"))


def test_floats_in_0_to_1_are_scaled(tmp_path: Path) -> None:
    grey = photo()[..., 0]
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif")[..., 1], grey)


@pytest.mark.parametrize("largest", [1.01, 255.0, float("nan")])
def test_other_floats_are_refused(largest: float, tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.float32)
    values[0, 0] = largest
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert refusal(tmp_path / "a.tif").startswith(f"image 'a.tif' stores floats in {0 * largest:g}")


def test_pictures_of_12_bits_are_refused_before_they_are_black(tmp_path: Path) -> None:
    values = np.full((8, 8), 4095, np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert "only values below 4096: it would be nearly black" in refusal(tmp_path / "a.png")
    Image.fromarray(values * 16).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 255).all()
    Image.fromarray(values * 0).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 0).all()


def save_16_bit_colours(values: np.ndarray, path: Path) -> None:
    """Write a PNG of 16 bits a channel, which Pillow does not."""
    height, width, _ = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_16_bit_colours_are_those_of_8_bits(tmp_path: Path) -> None:
    save_16_bit_colours(photo().astype(np.uint16) * 257, tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), photo())
    save_16_bit_colours(photo().astype(np.uint16) * 15, tmp_path / "a.png")
    assert "would be nearly black" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_integers_without_a_known_white_are_refused(dtype: type, tmp_path: Path) -> None:
    if dtype is np.int32:
        Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "a.tif")
    else:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[339] = 2  # the sample format: integers with a sign
        image = Image.fromarray(np.full((8, 8), 7, np.uint16))
        image.save(tmp_path / "a.tif", tiffinfo=tags)
    assert "integers of 32 bits or with a sign; which value is white" in refusal(tmp_path / "a.tif")


# Transparent pixels.


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "key"])
def test_colours_below_transparency_are_not_seen(mode: str, tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), (200, 30, 30, 255), np.uint8)
    pixels[:4] = (10, 250, 10, 0)
    image = Image.fromarray(pixels)
    if mode == "key":
        image = image.convert("RGB")
        image.save(tmp_path / "a.png", transparency=(10, 250, 10))
    else:
        image.convert(mode).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert (found[:4] == 255).all()
    expected = np.asarray(image.convert("L").convert("RGB") if mode == "LA" else image)[4:, :, :3]
    assert np.abs(found[4:].astype(int) - expected).max() <= (0 if mode != "P" else 40)


def test_python_programs_see_no_colours_below_transparency() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 250, 10, 0))
    assert (fitted_images(clear, 8)[0] == 255).all()


# Masks of few bits.


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_hold_what_was_stored(bits: int, tmp_path: Path) -> None:
    labels = photo()[..., 0] % 2**bits
    # Pillow stores the upper bits.
    spread = labels * (255 // (2**bits - 1))
    Image.fromarray(spread).save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_mask(tmp_path / "a.png", "a.png"), labels)
    with Image.open(tmp_path / "a.png") as opened:
        (sample,) = fitted_samples(photo(), opened, load_class_table("ffhq_34"), 16)
    assert np.array_equal(sample.mask.numpy(), labels)


# Too many pixels, or none.


@pytest.mark.parametrize("noun", ["image", "mask"])
def test_pictures_that_are_too_large_are_told_apart_from_damage(noun: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with io.BytesIO() as small:
        Image.new("1", (8, 8)).save(small, "png")
        content = bytearray(small.getvalue())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(path, "a.png") if noun == "image" else read_mask(path, "a.png")
    assert str(error.value) == (
        f"{noun} 'a.png' has 400 megapixels; at most 179 megapixels are read. Make it smaller, or "
        "cut it into parts."
    )


def test_large_pictures_are_read_without_a_warning(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000), 1).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", "a.png")
    assert (fit_image(image, 8, center_crop=False, shown_as="a.png") == 255).all()


def test_missing_files_are_told_apart_from_damage(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert refusal(tmp_path / "a.png") == "image 'a.png' does not exist."
    with pytest.raises(DataError, match=r"^mask 'a\.npy' does not exist\.$"):
        read_mask(tmp_path / "a.npy", "a.npy")
