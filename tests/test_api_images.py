"""Images and masks as Python programs have them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ddpmseg
from ddpmseg.api.classes import class_table
from ddpmseg.api.images import each_mask, fitted_images, fitted_samples
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.images import fit_image
from ddpmseg.errors import ConfigError, DataError

PHOTOS, MASKS = ddpmseg.ponies(2, image_size=24)
PONIES = load_class_table("ponies")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The two photographs and masks as files."""
    for index, (photo, mask) in enumerate(zip(PHOTOS, MASKS, strict=True)):
        Image.fromarray(photo).save(tmp_path / f"pony{index}.png")
        np.save(tmp_path / f"pony{index}.npy", mask)
        PONIES.indexed(mask).save(tmp_path / f"mask{index}.png")
    return tmp_path


def test_every_kind_of_image_is_read_alike(files: Path) -> None:
    as_tensor = torch.from_numpy(PHOTOS).permute(0, 3, 1, 2)
    given: list[Any] = [
        list(PHOTOS),
        as_tensor,
        as_tensor / 255,
        list(as_tensor.double() / 255),
        [Image.fromarray(photo) for photo in PHOTOS],
        [str(files / "pony0.png"), files / "pony1.png"],
        (PHOTOS[0], as_tensor[1]),
    ]
    expected, names = fitted_images(PHOTOS, 16)
    assert names == ["00000", "00001"]
    assert expected.shape == (2, 3, 16, 16)
    for images in given:
        assert torch.equal(fitted_images(images, 16)[0], expected)
    assert fitted_images(given[5], 16)[1] == ["pony0", "pony1"]


def test_a_single_image_is_a_list_of_one(files: Path) -> None:
    expected = fitted_images(PHOTOS[:1], 16)[0]
    for image in (PHOTOS[0], Image.fromarray(PHOTOS[0]), files / "pony0.png"):
        assert torch.equal(fitted_images(image, 16)[0], expected)


def test_the_square_in_the_middle_is_read() -> None:
    wide = np.zeros((24, 40, 3), np.uint8)
    wide[:, 8:32] = PHOTOS[0]
    found, _ = fitted_images(wide, 16)
    assert torch.equal(found[0], fit_image(Image.fromarray(PHOTOS[0]), 16, False, ""))


def test_every_kind_of_mask_is_read_alike(files: Path) -> None:
    given: list[Any] = [
        list(MASKS),
        MASKS.astype(np.int64),
        torch.from_numpy(MASKS),
        [PONIES.indexed(mask) for mask in MASKS],
        [files / "pony0.npy", str(files / "mask1.png")],
    ]
    for masks in given:
        found = fitted_samples(PHOTOS, masks, PONIES, 24)
        assert np.array_equal(np.stack([sample.mask.numpy() for sample in found]), MASKS)


FLOATS = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), "image 0: got an array (3, 8, 8) of uint8. Give an"),
        (np.zeros((1, 8, 8, 3)), "array (8, 8, 3) of float64.*`(images * 255).round().astype"),
        (np.zeros((8, 8), np.uint8), "image 0: got an array (8, 8) of uint8"),
        (torch.zeros(2, 8, 8, 3), "image 0: got a tensor (8, 8, 3) of float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "a tensor (3, 8, 8) of int64"),
        (FLOATS + 200, "image 0: a float tensor with values in 200..200; floats must lie in 0..1"),
        (FLOATS - 0.5, "-0.5..-0.5.*of values in -1..1 give `(images + 1) / 2`"),
        (FLOATS / 0, "nan..nan"),
        ([PHOTOS[0], torch.ones(4)], "image 1: got a tensor (4,) of float32"),
        ([PHOTOS[0], 3], "image 1: got an object of type int"),
        ({"a": 1}, "images: got an object of type dict"),
        ([], "images: there are none"),
        (["nowhere.png"], "image 'nowhere.png' does not exist"),
    ],
)
def test_what_is_no_image(images: Any, says: str) -> None:
    pattern = ".*".join(map(re.escape, says.split(".*")))
    with pytest.raises(DataError, match=pattern):
        fitted_images(images, 8)


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (MASKS[:1], "there are 2 images and 1 masks. Give every image one mask."),
        (MASKS[:, :20], "mask 'mask 0' is 24x20, but image 'image 0' is 24x24"),
        (MASKS + np.uint8(7), "class table 'ponies' allows 0..10 and 255 (ignored)"),
        (MASKS / 2, "mask 0: got an array (24, 24) of float64"),
        ([MASKS[0], Image.fromarray(PHOTOS[0])], "mask 'mask 1' is a picture in colours"),
    ],
)
def test_masks_that_do_not_fit(masks: Any, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        fitted_samples(PHOTOS, masks, PONIES, 16)


def test_classes_by_name_number_table_and_labels() -> None:
    masks = [np.array([[0, 1], [3, 255]])]
    assert class_table(None, masks).names == ("class 0", "class 1", "class 2", "class 3")
    assert class_table(None, [np.zeros((2, 2), int)]).num_classes == 2
    assert class_table(3, []).num_classes == 3
    assert class_table(("sky", "pony"), []).names == ("sky", "pony")
    assert class_table("ponies", []).names[1] == "body"
    assert class_table(PONIES, []) is PONIES
    assert class_table(["sky", "pony"], []).ignore_label == 255


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (1, "`classes` describes 1 classes; 2 to 255 are possible"),
        (["pony", "pony"], "class 'pony' is listed more than once"),
        ("no such table", "no class table of this name ships with ddpmseg"),
    ],
)
def test_classes_that_cannot_be(classes: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        class_table(classes, [])


def test_labels_that_are_no_classes() -> None:
    with pytest.raises(DataError, match=r"labels in -1\.\.300; labels are 0\.\.254"):
        class_table(None, (mask for _, mask in each_mask(np.array([[[-1, 300]]]))))
