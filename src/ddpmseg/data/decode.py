"""Decodes picture files: upright, and in 8 bits a channel whatever they store.

Every photograph and every mask in a picture file is opened here.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import Image

from ddpmseg.errors import DataError

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Value of the tag -> what turns the stored pixels upright."""
TURNED = "turned"
"""Key of `Image.info`: whether a file asked to be shown otherwise than it is stored."""
WHITE = 65535
"""Of 16 bits; a picture of 12 bits ends at 4095."""
DARK = 4096
FEW_BITS = {"L;2": 85, "L;4": 17}
"""Layout of greyscale pixels -> the factor by which Pillow spreads them over 0..255."""


@contextmanager
def opened_picture(file: Path | io.BytesIO, noun: str, shown_as: str) -> Iterator[Image.Image]:
    """Open a picture file; the pixels are decoded in the `with` block.

    `noun` is 'image' or 'mask'. Raises DataError when the file is missing, truncated, no image, or
    has more pixels than Pillow reads, also for an error in the block.
    """
    try:
        with warnings.catch_warnings():
            # Of many pixels, which are read, and of damaged EXIF data, which are ignored.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(file) as image:
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{noun} '{shown_as}' does not exist.") from error
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(noun, shown_as, str(error))) from error
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{noun} '{shown_as}' cannot be decoded: it is truncated or no image ({error}). "
            "Replace or remove the file."
        ) from error


def rgb_pixels(image: Image.Image, shown_as: str, upright: bool = True) -> Image.Image:
    """The picture in RGB, 8 bits a channel, turned as its EXIF orientation says.

    - 16-bit greys are divided by 257: 0 becomes 0 and 65535 becomes 255, in every image alike.
    - Floats must lie in 0..1, which become 0..255.
    - Transparent pixels show white, as in a viewer; the colours below them are not seen.

    `upright` False leaves the pixels as they are stored. `info` of the result holds `TURNED` only.
    Raises DataError for pixels whose white is not known: integers of 32 bits or with a sign, floats
    outside 0..1, and 16 bits that only hold values below 4096, which would be nearly black.
    """
    layout = _layout(image)
    sixteen = ";16" in layout and not layout.endswith("S")  # with a sign
    image.load()
    turn = _turn(image)
    if image.mode == "F":
        rgb = _from_floats(np.asarray(image), shown_as)
    elif image.mode.startswith("I"):
        if not (image.mode.startswith("I;16") or sixteen):
            raise DataError(
                f"image '{shown_as}' stores integers of 32 bits or with a sign; which value is "
                "white is not known. Save all images of the set in 8 bits, or in 16 without a sign."
            )
        rgb = _from_16_bits(np.asarray(image), shown_as)
    else:
        rgb = _from_8_bits(image, shown_as)
        if sixteen:  # Pillow keeps the upper eight
            _check_bright(256 * max(high for _, high in _extrema(rgb)), shown_as)
    if upright and turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {TURNED: turn is not None}
    return rgb


def stored_labels(image: Image.Image) -> Integer[np.ndarray, "h w"]:
    """Pixels of an indexed or greyscale picture as they are stored, but upright; 0 and 1 of bits.

    A greyscale file of 2 or 4 bits must not be loaded yet: Pillow then has spread its values.
    """
    factor = FEW_BITS.get(_layout(image), 1)
    image.load()
    turn = _turn(image)
    labels = np.asarray(image if turn is None else image.transpose(turn))
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    return labels if factor == 1 else labels // factor


def _layout(image: Image.Image) -> str:
    """How the file lays out its pixels, in Pillow's words ('RGB;16B'); '' once they are loaded."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns a loaded picture upright; None where it is, or its EXIF data are damaged."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError):
        return None


def _from_8_bits(image: Image.Image, shown_as: str) -> Image.Image:
    mode = image.mode
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    except ValueError as error:
        raise DataError(
            f"image '{shown_as}' has pixels of the kind {mode}, which cannot be read as RGB. Save "
            "it in RGB, 8 bits a channel."
        ) from error


def _from_16_bits(values: np.ndarray, shown_as: str) -> Image.Image:
    _check_bright(int(values.max()), shown_as)
    grey = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _check_bright(largest: int, shown_as: str) -> None:
    if 0 < largest < DARK:
        raise DataError(
            f"image '{shown_as}' stores 16 bits a channel, of which 0 is black and {WHITE} white, "
            f"but only values below {DARK}: it would be nearly black. Multiply the values of all "
            "images of the set by the same number (16 for a camera of 12 bits), or save them in "
            "8 bits."
        )


def _from_floats(values: np.ndarray, shown_as: str) -> Image.Image:
    if not ((values >= 0) & (values <= 1)).all():  # NaN is not
        raise DataError(
            f"image '{shown_as}' stores floats in {values.min():.4g}..{values.max():.4g}; floats "
            "must lie in 0 (black) to 1 (white). Divide the values of all images of the set by the "
            "same number, or save them in 8 or 16 bits."
        )
    return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")


def _extrema(rgb: Image.Image) -> list[tuple[int, int]]:
    return [band.getextrema() for band in rgb.split()]  # pyright: ignore[reportReturnType]


def _too_large(noun: str, shown_as: str, message: str) -> str:
    """The sentence for a picture of which Pillow says 'Image size (N pixels) exceeds limit'."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    pixels = re.search(r"\d+", message)
    size = f"{int(pixels[0]) / 1e6:.0f} megapixels" if pixels else "too many pixels"
    return (
        f"{noun} '{shown_as}' has {size}; at most {limit / 1e6:.0f} megapixels are read. Make it "
        "smaller, or cut it into parts."
    )
