"""Photographs and masks: the reference's resizing, and an answer to every damaged file."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from ddpmseg.data.images import (
    CachedImages,
    ImageFiles,
    PonyImages,
    fit_image,
    fit_mask,
    read_image,
    read_mask,
)
from ddpmseg.errors import DataError

GOLDEN = load_file(Path(__file__).parent / "golden" / "loader.safetensors")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_resizing_is_the_references_bit_for_bit() -> None:
    source = Image.fromarray(GOLDEN["loader_source_image"].numpy())
    fitted = fit_image(source, 64, center_crop=False, shown_as="a.png")
    assert fitted.dtype == torch.uint8
    assert torch.equal(fitted.float() / 255 * 2 - 1, GOLDEN["loader_image"])


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = picture(32, 32)
    fitted = fit_image(image, 32, center_crop=True, shown_as="a.png")
    assert np.array_equal(fitted.permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(9, 4, 2, 0), (4, 9, 0, 2), (6, 4, 1, 0)]
)
def test_center_crop_cuts_out_the_middle(width: int, height: int, left: int, top: int) -> None:
    image = picture(width, height)
    fitted = fit_image(image, 4, center_crop=True, shown_as="a.png")
    middle = np.asarray(image)[top : top + 4, left : left + 4]
    assert np.array_equal(fitted.permute(1, 2, 0).numpy(), middle)


def test_an_image_that_is_not_square_is_refused() -> None:
    with pytest.raises(DataError) as error:
        fit_image(picture(9, 4), 4, center_crop=False, shown_as="photos/a.jpg")
    assert str(error.value) == (
        "image 'photos/a.jpg' is 9x4; images must be square. Set `dataset.center_crop=true` "
        "(`pretrain.center_crop=true` in pretraining) to cut out the centre of every image."
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_kinds_of_pixels_become_rgb(mode: str) -> None:
    image = read_image(io.BytesIO(encoded(picture(8, 8).convert(mode), "PNG")), "a.png")
    assert image.mode == "RGB"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.9])
def test_truncated_images_are_named(kind: str, share: float) -> None:
    whole = encoded(picture(40, 40), kind)
    file = io.BytesIO(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"^image 'a/b' cannot be decoded: it is truncated or no"):
        read_image(file, "a/b")


def save_folder(root: Path) -> None:
    """Images in two folders, with what operating systems leave between them."""
    (root / "sub").mkdir(parents=True)
    picture(8, 8, seed=1).save(root / "sub" / "a.png")
    picture(8, 8, seed=2).save(root / "b.JPEG", quality=95)
    picture(8, 8, seed=3).save(root / "10.png")
    (root / "._b.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("no image")


def pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder).as_posix())
        file.writestr("__MACOSX/sub/a.png", b"no image")


def test_a_folder_and_its_archive_hold_the_same_images(tmp_path: Path) -> None:
    save_folder(tmp_path / "photos")
    pack(tmp_path / "photos", tmp_path / "photos.zip")
    folder, archive = (ImageFiles(tmp_path / name, 4) for name in ("photos", "photos.zip"))
    assert folder.names == archive.names == ["10.png", "b.JPEG", "sub/a.png"]
    assert len(folder) == 3
    for index in range(3):
        assert folder[index].shape == (3, 4, 4)
        assert torch.equal(folder[index], archive[index])
    expected = fit_image(picture(8, 8, seed=1), 4, center_crop=False, shown_as="")
    assert torch.equal(folder[2], expected)


def names_below(folder: Path) -> list[str]:
    return ImageFiles(folder, 4).names


def test_linked_folders_are_read(tmp_path: Path) -> None:
    save_folder(tmp_path / "store" / "cats")
    picture(8, 8).save(tmp_path / "store" / "x.png")
    (tmp_path / "images" / "own").mkdir(parents=True)
    picture(8, 8).save(tmp_path / "images" / "own" / "y.png")
    (tmp_path / "images" / "cats").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "images" / "own" / "x.png").symlink_to("../../store/x.png")
    assert names_below(tmp_path / "images") == [
        *(f"cats/{name}" for name in ("10.png", "b.JPEG", "sub/a.png")),
        *("own/x.png", "own/y.png"),
    ]
    (tmp_path / "link").symlink_to("images")
    assert names_below(tmp_path / "link") == names_below(tmp_path / "images")
    assert ImageFiles(tmp_path / "images", 4)[2].shape == (3, 4, 4)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    save_folder(tmp_path)
    expected = names_below(tmp_path)
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "again").symlink_to("sub")  # before 'sub' in the alphabet
    (tmp_path / "itself").symlink_to(".")
    assert names_below(tmp_path) == expected


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    save_folder(tmp_path)
    (tmp_path / ".hidden").symlink_to("gone")
    assert len(names_below(tmp_path)) == 3
    (tmp_path / "cats").symlink_to("/gone/cats")
    with pytest.raises(DataError) as error:
        ImageFiles(tmp_path, 4)
    assert str(error.value) == (
        f"'{tmp_path}/cats' is a link to '/gone/cats', which does not exist. Restore what it "
        "leads to, or remove the link."
    )
    (tmp_path / "cats").unlink()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"loop' is a link to 'loop', which does not exist"):
        ImageFiles(tmp_path, 4)


def test_an_archive_can_be_sent_to_workers_after_use(tmp_path: Path) -> None:
    save_folder(tmp_path / "photos")
    pack(tmp_path / "photos", tmp_path / "photos.zip")
    images = ImageFiles(tmp_path / "photos.zip", 4)
    first = images[0]
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy[0], first)


def test_damaged_files_of_a_folder_are_named_when_read(tmp_path: Path) -> None:
    whole = encoded(picture(40, 40), "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    images = ImageFiles(tmp_path, 8)
    with pytest.raises(DataError) as error:
        images[0]
    assert f"image '{tmp_path}/a.jpg' cannot be decoded: it is truncated or no image" in str(
        error.value
    )


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    content = encoded(picture(40, 40), "BMP")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.bmp", content)
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"^'a\.bmp' in '.*photos\.zip' is damaged \(Bad CRC"):
        ImageFiles(path, 8)[0]


def test_images_that_are_not_square_need_center_crop(tmp_path: Path) -> None:
    picture(12, 8).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png' is 12x8; images must be square"):
        ImageFiles(tmp_path, 8)[0]
    assert ImageFiles(tmp_path, 8, center_crop=True)[0].shape == (3, 8, 8)


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no images in '.*': expected a folder or a \.zip of"):
        ImageFiles(tmp_path, 8)
    with pytest.raises(DataError, match=r"nowhere' is neither a folder nor a \.zip archive"):
        ImageFiles(tmp_path / "nowhere", 8)


def test_a_cache_delivers_the_same_images_and_reads_each_once() -> None:
    source = PonyImages(3, 16, seed=0)
    cached = CachedImages(source, 16)
    first = cached[2].clone()
    source.seed = 1
    assert torch.equal(cached[2], first)
    assert torch.equal(first, PonyImages(3, 16, seed=0)[2])
    assert not torch.equal(cached[1], PonyImages(3, 16, seed=0)[1])


def some_labels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (8, 8), dtype=np.uint8)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_masks_are_resized_like_a_plain_loop(height: int, width: int, size: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.int32)
    fitted = fit_mask(mask, size)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    for row in range(size):
        for column in range(size):
            source = mask[top + int(row * side / size), left + int(column * side / size)]
            assert fitted[row, column] == source


@pytest.mark.parametrize("kind", ["grey", "indexed", "grey16", "bits"])
def test_png_masks_hold_labels_not_colours(tmp_path: Path, kind: str) -> None:
    labels = some_labels(2 if kind == "bits" else 11)
    image = Image.fromarray(labels.astype(np.uint16 if kind == "grey16" else np.uint8))
    if kind == "indexed":
        image = image.convert("P")
        # Few colours: stored with 4 bits per pixel.
        image.putpalette([50, 90, 7] * 11)
    if kind == "bits":
        image = Image.fromarray(labels.astype(bool))
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", "a.png"), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_png_masks_in_colours_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / "a.png", "labels/a.png")
    assert str(error.value) == (
        f"mask 'labels/a.png' is a picture in colours (mode {mode}); a .png mask must be "
        "indexed or greyscale, with the label as the pixel's value. Save it so, or as .npy."
    )


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((8, 8)), r"shape \(8, 8\) and type float64"),
        (np.zeros((8, 8), bool), r"shape \(8, 8\) and type bool"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\) and type uint8"),
    ],
)
def test_arrays_that_are_no_masks_are_refused(
    tmp_path: Path, array: np.ndarray, found: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(
        DataError, match=rf"^mask 'a\.npy' is an array of {found}; a mask has shape"
    ):
        read_mask(tmp_path / "a.npy", "a.npy")


def test_damaged_masks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, some_labels(11))
    whole = path.read_bytes()
    for length in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"^mask 'a\.npy' cannot be read: it is truncated, or"):
            read_mask(path, "a.npy")
    np.save(path, np.array([{"code": "to run"}], dtype=object))
    with pytest.raises(DataError, match=r"cannot be read: .*Object arrays cannot be loaded"):
        read_mask(path, "a.npy")
