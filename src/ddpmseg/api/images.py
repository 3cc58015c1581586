"""Images and masks as a Python program has them: arrays, tensors, pictures, paths."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch import Tensor

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.decode import rgb_pixels
from ddpmseg.data.images import fit_image, mask_labels, read_image, read_mask
from ddpmseg.data.labelled import Sample, labelled_sample
from ddpmseg.errors import DataError

Picture = np.ndarray | Tensor | Image.Image | str | PathLike[str]
"""One image or mask."""
Pictures = Picture | Sequence[Picture]
"""Images: an array (n, h, w, 3) uint8; a tensor (n, 3, h, w), uint8 or float in 0..1; a PIL image
or a path; or a list of single ones, which may differ in kind and size.

Masks: an array or a tensor (n, h, w) of integers; an indexed or greyscale PIL image; the path of a
.npy or .png file; or a list of single ones.
"""
IMAGES = (
    "Give an array (n, h, w, 3) uint8, a tensor (n, 3, h, w) uint8 or float in 0..1, or a list of "
    "single arrays, tensors, PIL images and paths."
)
MASKS = (
    "Give an array or a tensor (n, h, w) of integers, or a list of single arrays, tensors, PIL "
    "images and paths of .npy and .png files."
)


def fitted_images(images: Pictures, image_size: int) -> tuple[UInt8[Tensor, "n 3 s s"], list[str]]:
    """Images as a network reads them: the square in the middle of each, at `image_size` pixels.

    And their names, on which noise may depend: the stem of a file, else the number in the list.
    Raises DataError for what is no image, for other shapes, dtypes and ranges, and for none at all.
    """
    fitted, names = [], []
    for index, (shown_as, image) in enumerate(each_image(images)):
        fitted.append(fit_image(image, image_size, True, shown_as))
        names.append(f"{index:05d}" if shown_as == f"image {index}" else Path(shown_as).stem)
    return torch.stack(fitted), names


def each_image(images: Pictures) -> Iterator[tuple[str, Image.Image]]:
    """Every image in RGB, and how messages name it. Raises DataError as `fitted_images`."""
    return ((name, _image(one, name)) for name, one in _each(images, "image", 4, IMAGES))


def each_mask(masks: Pictures) -> Iterator[tuple[str, Integer[np.ndarray, "h w"]]]:
    """Every mask in its own dtype, and how messages name it; DataError for what is no mask."""
    return ((name, _mask(one, name)) for name, one in _each(masks, "mask", 3, MASKS))


def fitted_samples(
    images: Pictures,
    masks: Pictures,
    classes: ClassTable,
    image_size: int,
    tiny_annotations: str = "keep",
) -> list[Sample]:
    """Labelled images at `image_size` pixels, see `fitted_images`.

    Raises DataError as `fitted_images`, for as many masks as there are not images, for a mask of
    another size than its image's, and for labels that are no class.
    """
    pictures, labels = list(each_image(images)), list(each_mask(masks))
    if len(pictures) != len(labels):
        raise DataError(
            f"there are {len(pictures)} images and {len(labels)} masks. Give every image one mask."
        )
    return [
        labelled_sample(
            image,
            mask,
            classes,
            image_size,
            center_crop=True,
            tiny_annotations=tiny_annotations,
            name=f"{index:05d}",
            shown_as=(image_name, mask_name),
        )
        for index, ((image_name, image), (mask_name, mask)) in enumerate(
            zip(pictures, labels, strict=True)
        )
    ]


def _each(given: Pictures, noun: str, ndim: int, expected: str) -> list[tuple[str, Picture]]:
    """The single ones and their names; `ndim` is that of an array of many."""
    if (isinstance(given, np.ndarray | Tensor) and given.ndim == ndim) or isinstance(
        given, list | tuple
    ):
        single = list(given)
    elif isinstance(given, np.ndarray | Tensor | Image.Image | str | PathLike):
        single = [given]
    else:
        raise DataError(f"{noun}s: got {_described(given)}. {expected}")
    if not single:
        raise DataError(f"{noun}s: there are none. {expected}")
    return [(_name(one, f"{noun} {index}"), one) for index, one in enumerate(single)]


def _name(one: Picture, otherwise: str) -> str:
    return str(one) if isinstance(one, str | PathLike) else otherwise


def _image(one: Picture, name: str) -> Image.Image:
    if isinstance(one, str | PathLike):
        return read_image(_existing(one, "image"), name)
    if isinstance(one, Image.Image):
        return rgb_pixels(one, name)
    if isinstance(one, np.ndarray):
        if one.ndim != 3 or one.shape[2] != 3 or one.dtype != np.uint8:
            hint = ""
            if one.dtype.kind == "f":
                hint = " Values in 0..1 become uint8 by `(images * 255).round().astype(np.uint8)`."
            raise DataError(f"{name}: got {_described(one)}. {IMAGES}{hint}")
        return Image.fromarray(one)
    if isinstance(one, Tensor):
        return Image.fromarray(_pixels(one, name).permute(1, 2, 0).numpy())
    raise DataError(f"{name}: got {_described(one)}. {IMAGES}")


def _pixels(one: Tensor, name: str) -> UInt8[Tensor, "3 h w"]:
    if (
        one.ndim != 3
        or one.shape[0] != 3
        or not (one.dtype == torch.uint8 or one.dtype.is_floating_point)
    ):
        raise DataError(f"{name}: got {_described(one)}. {IMAGES}")
    one = one.detach().cpu()
    if one.dtype == torch.uint8:
        return one
    if not bool(((one >= 0) & (one <= 1)).all()):  # NaN is not
        raise DataError(
            f"{name}: a float tensor with values in {one.min():.4g}..{one.max():.4g}; floats must "
            "lie in 0..1. Divide values of 0..255 by 255, or give uint8; of values in -1..1 give "
            "`(images + 1) / 2`."
        )
    return (one.float() * 255).round().to(torch.uint8)


def _mask(one: Picture, name: str) -> Integer[np.ndarray, "h w"]:
    if isinstance(one, str | PathLike):
        return read_mask(_existing(one, "mask"), name)
    if isinstance(one, Image.Image):
        return mask_labels(one, name)
    if not isinstance(one, np.ndarray | Tensor):
        raise DataError(f"{name}: got {_described(one)}. {MASKS}")
    mask = one if isinstance(one, np.ndarray) else one.detach().cpu().numpy()
    mask = mask.astype(np.uint8) if mask.dtype == bool else mask
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise DataError(f"{name}: got {_described(one)}. {MASKS}")
    return mask


def _existing(path: str | PathLike[str], noun: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise DataError(f"{noun} '{path}' does not exist.")
    return found


def _described(given: object) -> str:
    """Such as 'an array (2, 3, 64, 64) of float32'."""
    if isinstance(given, np.ndarray | Tensor):
        noun = "an array" if isinstance(given, np.ndarray) else "a tensor"
        return f"{noun} {tuple(given.shape)} of {str(given.dtype).removeprefix('torch.')}"
    return f"an object of type {type(given).__name__}"
