"""The corruptions of ImageNet-C: 19 types at five severities.

Source: Hendrycks & Dietterich 2019, arXiv 1903.12261; 15 common types and 4 extra ones, one for
each family. Their parameters are in pixels and were chosen for images of 224 pixels: the same
severity corrupts a smaller image more.
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

from ddpmseg.errors import ConfigError, MissingLibraryError

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
TYPES = tuple(name for names in FAMILIES.values() for name in names)
LEVELS = {1: "weak", 3: "medium", 5: "strong"}
"""The paper's names of its three severities (figure 6)."""
SEVERITIES = range(1, 6)
DISTRIBUTION = "imagecorruptions-imaug"
FORMAT = 1
"""Raise it when the drawn pixels change."""

Pixels = UInt8[np.ndarray, "s s 3"]


@dataclass(frozen=True, order=True)
class Corruption:
    """A type at a severity. Raises ConfigError when either does not exist."""

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
        """Smallest side in pixels of an image that shows this corruption as intended.

        The package supports 32 pixels and more. On 40 and fewer the strongest motion blur reaches
        beyond the image and loses what it moves there, so that the image becomes darker.
        """
        return 41 if self == Corruption("motion_blur", 5) else 32


def level(severity: int) -> str:
    """Name of a severity, such as 'weak' or 'severity 2'."""
    return LEVELS.get(severity, f"severity {severity}")


def choose(types: Sequence[str], severities: Sequence[int]) -> list[Corruption]:
    """Every type at every severity, in the order of `TYPES`; a family stands for all its types.

    Raises ConfigError for an unknown type or severity, and when nothing is named.
    """
    names = {name for type_ in types for name in FAMILIES.get(type_, (type_,))}
    chosen = {Corruption(name, severity) for name in names for severity in severities}
    if not chosen:
        raise ConfigError(
            "`--types` and `--severities`: name at least one of each, as in `--types noise "
            "--severities 1,3`."
        )
    return sorted(chosen, key=lambda item: (TYPES.index(item.type), item.severity))


def check_size(corruptions: Sequence[Corruption], image_size: int) -> None:
    """Raise ConfigError when images of `image_size` pixels are too small for a corruption."""
    for corruption in corruptions:
        if image_size < corruption.smallest:
            raise ConfigError(
                f"images of {image_size} pixels are too small for {corruption.type} at severity "
                f"{corruption.severity}, which needs {corruption.smallest}. Choose others with "
                "--types and --severities, or test a run with a larger `dataset.image_size`."
            )


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide the pixels.

    Raises ConfigError when the extra `corruptions` is not installed.
    """
    _package()
    import cv2

    distributions = (DISTRIBUTION, "numpy", "pillow", "scikit-image", "scipy")
    # OpenCV has several distributions, each with this module.
    return {name: metadata.version(name) for name in distributions} | {"opencv": cv2.__version__}


def corrupt(image: Pixels, corruption: Corruption, seed: int, name: str) -> Pixels:
    """A corrupted copy of a square RGB image.

    The random numbers depend on (seed, name, type, severity) only, not on the order of the images
    or on the process. `name` identifies the image. Not thread-safe: most types draw from numpy's
    global generator, which is seeded meanwhile.

    Raises ConfigError for an image that is too small, and when the extra is not installed.
    """
    check_size([corruption], len(image))
    words = _seed(seed, name, corruption)
    if corruption.type in _OWN:
        own = _OWN[corruption.type]
        return own(image, corruption.severity, np.random.default_rng(words))
    function = _package()[corruption.type]
    # No type draws from Python's generator or OpenCV's.
    with _numpy_seeded(words), np.errstate(divide="ignore", invalid="ignore"):
        corrupted = np.asarray(function(Image.fromarray(image), corruption.severity), np.float64)
    # Spatter divides 0 by 0 when no drop falls on the image, as happens on small ones.
    corrupted = np.where(np.isnan(corrupted), image, corrupted)
    return corrupted.astype(np.uint8)


def _package() -> Mapping[str, Callable[[Image.Image, int], ArrayLike]]:
    """Type -> function of the package.

    The older package `imagecorruptions` has a module of the same name, but three of its types fail
    with newer libraries.
    """
    try:
        metadata.version(DISTRIBUTION)
        from imagecorruptions import corruption_dict
    except ImportError as error:
        raise MissingLibraryError("drawing corruptions", DISTRIBUTION, "corruptions") from error
    return corruption_dict


def _seed(seed: int, name: str, corruption: Corruption) -> list[int]:
    """Seed of eight 32-bit words."""
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
    """Set a share of all values, in each colour channel separately, to 0 or 255.

    This function and `_glass_blur` replace the package's, which cannot be seeded.
    """
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = generator.random(image.shape) < share
    salt = generator.random(image.shape) < 0.5
    return np.where(hit, np.where(salt, np.uint8(255), np.uint8(0)), image)


def _glass_blur(image: Pixels, severity: int, generator: np.random.Generator) -> Pixels:
    """Blur slightly, give pixels the colours of near ones, blur again.

    From the last row and column to the first, a pixel takes the current colour of one at most
    `reach` away. The original means to swap the two, but assigns views, which copies; ImageNet-C
    was made this way.
    """
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[
        severity - 1
    ]
    size = len(image)
    positions = np.arange(size - reach, reach, -1)
    shape = (rounds, len(positions), len(positions))
    down, across = generator.integers(-reach, reach, (2, *shape))
    targets = np.broadcast_to(positions[:, None] * size + positions, shape)
    sources = targets + down * size + across
    origin = list(range(size**2))
    for target, source in zip(targets.ravel().tolist(), sources.ravel().tolist(), strict=True):
        origin[target] = origin[source]
    colours = _blurred(image, sigma).reshape(-1, 3)[origin]
    return _blurred(colours.reshape(image.shape), sigma)


def _blurred(image: Pixels, sigma: float) -> Pixels:
    blurred = gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", truncate=4)
    return (np.clip(blurred, 0, 1) * 255).astype(np.uint8)


_OWN: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "impulse_noise": _impulse_noise,
    "glass_blur": _glass_blur,
}
