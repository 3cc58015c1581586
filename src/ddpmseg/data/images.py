"""Reads photographs and masks: decodes, crops and resizes them; errors name the file."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch import Tensor

from ddpmseg.data.decode import opened_picture, rgb_pixels, stored_labels
from ddpmseg.data.file_names import files_below, is_hidden
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".tif", ".tiff")


def read_image(file: Path | io.BytesIO, shown_as: str, upright: bool = True) -> Image.Image:
    """Decode an image file completely, see `rgb_pixels`. Messages call it `shown_as`.

    Raises DataError when the file is missing, truncated or no image, too large, or its pixels have
    no known white.
    """
    with opened_picture(file, "image", shown_as) as image:
        return rgb_pixels(image, shown_as, upright)


def fit_image(
    image: Image.Image, size: int, center_crop: bool, shown_as: str
) -> UInt8[Tensor, "3 size size"]:
    """Resize a square RGB image to `size` pixels; with `center_crop` cut out the centre first.

    Uses Pillow's bilinear filter, whose support grows with the scale, as the reference does
    (`src/datasets.py`). Raises DataError when the image is not square and may not be cropped.
    """
    width, height = image.size
    if width != height and not center_crop:
        raise DataError(
            f"image '{shown_as}' is {width}x{height}; images must be square. Set "
            "`dataset.center_crop=true` (`pretrain.center_crop=true` in pretraining) to cut out "
            "the centre of every image."
        )
    left, top, side = _centre_square(width, height)
    square = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((size, size), resample=Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def read_mask(path: Path, shown_as: str) -> Integer[np.ndarray, "h w"]:
    """Read labels from a .npy file, or from an indexed or greyscale .png, in the stored dtype.

    A .png is turned as its EXIF orientation says. Raises DataError when the file is missing or
    damaged, holds colours, or is no (H, W) array of integers.
    """
    if path.suffix.lower() == ".png":
        with opened_picture(path, "mask", shown_as) as image:
            mask = mask_labels(image, shown_as)
    else:
        mask = _npy_labels(path, shown_as)
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise DataError(
            f"mask '{shown_as}' is an array of shape {mask.shape} and type {mask.dtype}; a mask "
            "has shape (height, width) and an integer type, one label per pixel."
        )
    return mask


def _npy_labels(path: Path, shown_as: str) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"mask '{shown_as}' does not exist.") from error
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise DataError(
            f"mask '{shown_as}' cannot be read: it is truncated, or no array of numbers ({error}). "
            "Replace the file."
        ) from error


def mask_labels(image: Image.Image, shown_as: str) -> Integer[np.ndarray, "h w"]:
    """The labels of an indexed or greyscale picture, upright; DataError for one in colours."""
    if image.mode not in ("1", "L", "P", "I", "I;16"):
        raise DataError(
            f"mask '{shown_as}' is a picture in colours (mode {image.mode}); a .png mask must "
            "be indexed or greyscale, with the label as the pixel's value. Save it so, or as "
            ".npy."
        )
    return stored_labels(image)


def fit_mask(mask: Integer[np.ndarray, "h w"], size: int) -> UInt8[np.ndarray, "size size"]:
    """Crop and resize labels 0..255 as `fit_image` does an image of the same shape.

    Output pixel i takes input pixel floor(i * side / size). This is the rule of OpenCV's
    INTER_NEAREST, which the reference uses; Pillow and `nearest-exact` round differently.
    """
    height, width = mask.shape
    left, top, side = _centre_square(width, height)
    taken = np.arange(size) * side // size
    return mask[np.ix_(top + taken, left + taken)].astype(np.uint8)


def _centre_square(width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of the largest square in the middle."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


@runtime_checkable
class ImageSource(Protocol):
    """Unlabelled square images, by index: uint8 (3, S, S)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class PonyImages:
    """The first `count` scenes of the 'pretrain' split, drawn on access."""

    def __init__(self, count: int, image_size: int, seed: int) -> None:
        self.count, self.image_size, self.seed = count, image_size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 s s"]:
        image, _ = draw_pony(index, "pretrain", self.seed, self.image_size)
        return torch.from_numpy(image).permute(2, 0, 1)


class ImageFiles:
    """All images below a folder or inside a zip archive, in sorted order.

    Links in a folder are followed, see `files_below`. Raises DataError when there are no images.
    """

    def __init__(self, root: str | Path, image_size: int, center_crop: bool = False) -> None:
        self.root, self.image_size, self.center_crop = Path(root), image_size, center_crop
        self.names = sorted(_image_names(self.root))
        if not self.names:
            raise DataError(
                f"no images in '{root}': expected a folder or a .zip of files ending in "
                f"{', '.join(IMAGE_SUFFIXES)}."
            )
        self._archive: zipfile.ZipFile | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 s s"]:
        name = self.names[index]
        image = read_image(self._open(name), f"{self.root}/{name}")
        return fit_image(image, self.image_size, self.center_crop, f"{self.root}/{name}")

    def _open(self, name: str) -> Path | io.BytesIO:
        if self.root.is_dir():
            return self.root / name
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.root)
        try:
            return io.BytesIO(self._archive.read(name))
        except (zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"'{name}' in '{self.root}' is damaged ({error}). Fetch or pack the archive again."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # Every worker opens its own archive: a shared file position would mix their reads.
        return self.__dict__ | {"_archive": None}


def _image_names(root: Path) -> list[str]:
    if root.is_dir():
        names = files_below(root)
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = [name for name in archive.namelist() if not is_hidden(name)]
    else:
        raise DataError(f"'{root}' is neither a folder nor a .zip archive of images.")
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


class CachedImages:
    """Cache the images of `source` in memory that all workers share: N * 3 * S * S bytes."""

    def __init__(self, source: ImageSource, image_size: int) -> None:
        self.source = source
        self.images = torch.zeros(len(source), 3, image_size, image_size, dtype=torch.uint8)
        self.cached = torch.zeros(len(source), dtype=torch.bool)
        self.images.share_memory_()
        self.cached.share_memory_()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 s s"]:
        if not self.cached[index]:
            self.images[index] = self.source[index]
            self.cached[index] = True
        return self.images[index]
