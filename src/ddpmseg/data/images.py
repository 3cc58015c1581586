"""Reading photographs: decoded, made square, resized, with errors that name the file."""

import io
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(file: Path | io.BytesIO, shown_as: str) -> Image.Image:
    """Decode an image file completely, as RGB. `shown_as` names it in a message.

    Raises DataError when the file is truncated or no image.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"image '{shown_as}' cannot be decoded: it is truncated or no image ({error}). "
            "Replace or remove the file."
        ) from error


def fit_image(
    image: Image.Image, size: int, center_crop: bool, shown_as: str
) -> UInt8[Tensor, "3 size size"]:
    """Resize a square RGB image to `size` pixels; with `center_crop` cut a square out first.

    Shrinks by repeated halving with a box filter while the image is at least twice as large, then
    bicubically, as the reference does (`src/datasets.py`, after openai/guided-diffusion
    `image_datasets.py`). Raises DataError when the image is not square and may not be cropped.
    """
    width, height = image.size
    if width != height and not center_crop:
        raise DataError(
            f"image '{shown_as}' is {width}x{height}; images must be square. "
            "Set `dataset.center_crop=true` to cut out the centre of every image."
        )
    while min(image.size) >= 2 * size:
        half = (image.size[0] // 2, image.size[1] // 2)
        image = image.resize(half, resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.size[0] * scale), round(image.size[1] * scale)),
        resample=Image.Resampling.BICUBIC,
    )
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


class ImageSource(Protocol):
    """Unlabelled square images, by index: uint8 (3, S, S)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class PonyImages:
    """The first `count` scenes of the 'pretrain' split, drawn when asked for."""

    def __init__(self, count: int, image_size: int, seed: int) -> None:
        self.count, self.image_size, self.seed = count, image_size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 s s"]:
        image, _ = draw_pony(index, "pretrain", self.seed, self.image_size)
        return torch.from_numpy(image).permute(2, 0, 1)


class ImageFiles:
    """All images below a folder or inside a zip archive, in sorted order.

    Raises DataError when there is none.
    """

    def __init__(self, root: str | Path, image_size: int, center_crop: bool = False) -> None:
        self.root, self.image_size, self.center_crop = Path(root), image_size, center_crop
        self.names = sorted(_image_names(self.root))
        if not self.names:
            raise DataError(
                f"no images in '{root}' (a folder or a .zip with {', '.join(IMAGE_SUFFIXES)} files)."
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
        return io.BytesIO(self._archive.read(name))

    def __getstate__(self) -> dict[str, object]:
        # Every worker opens the archive for itself: a shared file position would mix their reads.
        return self.__dict__ | {"_archive": None}


def _image_names(root: Path) -> list[str]:
    if root.is_dir():
        names = [str(path.relative_to(root)) for path in root.rglob("*")]
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    else:
        raise DataError(f"'{root}' is neither a folder nor a .zip archive of images.")
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


class CachedImages:
    """Keep what `source` has delivered in memory shared by all workers: N * 3 * S * S bytes."""

    def __init__(self, source: ImageSource, image_size: int) -> None:
        self.source = source
        self.images = torch.zeros(len(source), 3, image_size, image_size, dtype=torch.uint8)
        self.known = torch.zeros(len(source), dtype=torch.bool)
        self.images.share_memory_()
        self.known.share_memory_()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 s s"]:
        if not self.known[index]:
            self.images[index] = self.source[index]
            self.known[index] = True
        return self.images[index]


