"""The corruptions of ImageNet-C: 19 ways in which a photograph is spoilt, at five severities.

Source: Hendrycks & Dietterich 2019, arXiv 1903.12261; 15 common types and 4 extra ones, one for
each family. Their parameters are counted in pixels and were chosen for images of 224: the same
severity spoils a smaller image more.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import gaussian_filter

from ddpmseg.errors import ConfigError

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
TYPES = tuple(name for names in FAMILIES.values() for name in names)
LEVELS = {1: "weak", 3: "medium", 5: "strong"}
"""What the paper calls its three severities (figure 6)."""
SEVERITIES = range(1, 6)
DISTRIBUTION = "imagecorruptions-imaug"
FORMAT = 1
"""Raise it when pixels come to be drawn in another way."""

Pixels = UInt8[np.ndarray, "s s 3"]


@dataclass(frozen=True, order=True)
class Corruption:
    """A type at a severity. Raises ConfigError where there is none such."""

    type: str
    severity: int

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            close = get_close_matches(self.type, TYPES, n=2)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise ConfigError(
                f"there is no corruption '{self.type}'.{hint} There are {', '.join(TYPES)}."
            )
        if self.severity not in SEVERITIES:
            raise ConfigError(
                f"severity {self.severity} does not exist: severities are 1..5, of which 1, 3 and "
                "5 are called weak, medium and strong."
            )

    def __str__(self) -> str:
        return f"{self.type}, {level(self.severity)}"

    @property
    def smallest(self) -> int:
        """Side in pixels from which on an image shows this corruption as it is meant.

        The package is made for 32 pixels and more. On 40 and less the strongest motion blur runs
        beyond the image, and what lies there is lost: the image becomes darker.
        """
        return 41 if self == Corruption("motion_blur", 5) else 32


def level(severity: int) -> str:
    """Such as 'weak' or 'severity 2'."""
    return LEVELS.get(severity, f"severity {severity}")


def choose(types: Sequence[str], severities: Sequence[int]) -> list[Corruption]:
    """Every type at every severity, in the order of `TYPES`; a family names all its types.

    Raises ConfigError for what does not exist, and for nothing at all.
    """
    names = {name for given in types for name in FAMILIES.get(given, (given,))}
    chosen = {Corruption(name, severity) for name in names for severity in severities}
    if not chosen:
        raise ConfigError("name at least one type and one severity.")
    return sorted(chosen, key=lambda one: (TYPES.index(one.type), one.severity))


def check_size(corruptions: Sequence[Corruption], image_size: int) -> None:
    """Raise ConfigError where images of `image_size` pixels are too small for one of these."""
    for one in corruptions:
        if image_size < one.smallest:
            raise ConfigError(
                f"images of {image_size} pixels are too small for {one.type} at severity "
                f"{one.severity}, which needs {one.smallest}. Choose others with --types and "
                "--severities, or test a run with a larger `dataset.image_size`."
            )


def libraries() -> dict[str, str]:
    """Versions of all that decides the pixels. Raises ConfigError where the extra is missing."""
    _package()
    import cv2

    distributions = (DISTRIBUTION, "numpy", "pillow", "scikit-image", "scipy")
    # OpenCV has several distributions, each with this module.
    return {name: metadata.version(name) for name in distributions} | {"opencv": cv2.__version__}


def corrupt(image: Pixels, corruption: Corruption, seed: int, name: str) -> Pixels:
    """A corrupted copy of a square RGB image.

    What is drawn depends on (seed, name, type, severity) alone, never on what was drawn before:
    not on the order of the images, nor on the process. `name` identifies the image. One thread at a
    time: meanwhile numpy's global generator, from which most types draw, is set to a seed.

    Raises ConfigError for an image that is too small, and where the extra is missing.
    """
    check_size([corruption], len(image))
    words = _seed(seed, name, corruption)
    if corruption.type in _OWN:
        own = _OWN[corruption.type]
        return own(image, corruption.severity, np.random.default_rng(words))
    function = _package()[corruption.type]
    # Neither Python's generator nor OpenCV's is drawn from.
    with _numpy_seeded(words), np.errstate(divide="ignore", invalid="ignore"):
        spoilt = np.asarray(function(Image.fromarray(image), corruption.severity), np.float64)
    # Spatter divides 0 by 0 where no drop falls on the image, as happens on small ones.
    spoilt = np.where(np.isnan(spoilt), image, spoilt)
    return spoilt.astype(np.uint8)


def _package() -> Mapping[str, Callable[[Image.Image, int], ArrayLike]]:
    """The functions of the package by type.

    `imagecorruptions`, from which it descends, has a module of the same name, of which three types
    fail with newer libraries.
    """
    try:
        metadata.version(DISTRIBUTION)
        from imagecorruptions import corruption_dict
    except ImportError as error:
        raise ConfigError(
            f"corruptions need '{DISTRIBUTION}', which is not installed ({error}): "
            "pip install 'ddpmseg[corruptions]'"
        ) from error
    return corruption_dict


def _seed(seed: int, name: str, corruption: Corruption) -> list[int]:
    """Eight words of 32 bits."""
    key = f"{seed}\0{name}\0{corruption.type}\0{corruption.severity}"
    return np.frombuffer(hashlib.sha256(key.encode()).digest(), "<u4").tolist()


@contextmanager
def _numpy_seeded(words: Sequence[int]) -> Iterator[None]:
    before = np.random.get_state()
    np.random.seed(words)
    try:
        yield
    finally:
        np.random.set_state(before)


def _impulse_noise(image: Pixels, severity: int, generator: np.random.Generator) -> Pixels:
    """A share of all values, each colour by itself, becomes 0 or 255.

    Written here, as is `_glass_blur`: those of the package cannot be seeded.
    """
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = generator.random(image.shape) < share
    salt = generator.random(image.shape) < 0.5
    return np.where(hit, np.where(salt, np.uint8(255), np.uint8(0)), image)


def _glass_blur(image: Pixels, severity: int, generator: np.random.Generator) -> Pixels:
    """Pixels take the colours of near ones between two slight blurs.

    From the last row and column to the first, each takes the colour that one at most `reach` away
    has by then. The original means to exchange the two, but its assignment of views copies: so
    ImageNet-C was made.
    """
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[
        severity - 1
    ]
    size = len(image)
    places = np.arange(size - reach, reach, -1)
    shape = (rounds, len(places), len(places))
    down, across = generator.integers(-reach, reach, (2, *shape))
    taking = np.broadcast_to(places[:, None] * size + places, shape)
    giving = taking + down * size + across
    origin = list(range(size**2))
    for here, there in zip(taking.ravel().tolist(), giving.ravel().tolist(), strict=True):
        origin[here] = origin[there]
    colours = _blurred(image, sigma).reshape(-1, 3)[origin]
    return _blurred(colours.reshape(image.shape), sigma)


def _blurred(image: Pixels, sigma: float) -> Pixels:
    blurred = gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", truncate=4)
    return (np.clip(blurred, 0, 1) * 255).astype(np.uint8)


_OWN: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "impulse_noise": _impulse_noise,
    "glass_blur": _glass_blur,
}
