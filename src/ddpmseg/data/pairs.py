"""Pairs the images of a folder with their masks."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from ddpmseg.command_line import command
from ddpmseg.data.file_names import as_read
from ddpmseg.data.images import IMAGE_SUFFIXES
from ddpmseg.errors import DataError

log = logging.getLogger(__name__)
DRAWN = "ddpm"
"""Folder below a set's root that holds a diffusion model's images, as in the paper's archive."""


@dataclass(frozen=True)
class Pair:
    image: Path
    mask: Path


@dataclass(frozen=True)
class Listing:
    """The files of a split, sorted by name."""

    pairs: list[Pair]
    without_mask: list[tuple[Path, str]]
    """Images without a mask, each with the names that its mask may have."""
    without_image: list[Path]
    """Masks without an image."""


def find_pairs(root: Path, split: str, images: str, masks: str | None) -> list[Pair]:
    """The images of `root/images` in sorted order, each with its mask.

    Names that read alike are paired, whatever their Unicode form. A warning names masks without
    an image. `split` is 'train' or 'test'. Raises DataError as `list_pairs`, and for an image
    without a mask.
    """
    listing = list_pairs(root, split, images, masks)
    if listing.without_mask:
        image, expected = listing.without_mask[0]
        complete, total = len(listing.pairs), len(listing.pairs) + len(listing.without_mask)
        raise DataError(
            f"no mask for image '{image.name}': expected {expected} in {root / (masks or images)}. "
            f"{complete} of {total} pairs found. Add the mask or remove the image."
        )
    if listing.without_image:
        log.warning(
            "masks without an image are not used: %d in '%s', such as '%s'; images end in %s",
            *(len(listing.without_image), root / (masks or images)),
            *(listing.without_image[0].name, ", ".join(IMAGE_SUFFIXES)),
        )
    return listing.pairs


def list_pairs(root: Path, split: str, images: str, masks: str | None) -> Listing:
    """All images of `root/images`, and their masks in the same folder or in `root/masks`.

    Raises DataError for a folder that is missing or holds no image, and for images that would share
    a mask.
    """
    image_folder = root / images
    mask_folder = image_folder if masks is None else root / masks
    same_folder = mask_folder == image_folder
    files = _files(image_folder, f"dataset.{split}_images", "images")
    image_files = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if same_folder:
        # Beside 'a.jpg', 'a.png' is its mask.
        stems = {_stem(path) for path in image_files if not _is_png(path)}
        image_files = [
            path for path in image_files if not _is_png(path) or _stem(path) not in stems
        ]
    if not image_files:
        raise DataError(
            f"no images in '{image_folder}': expected files ending in {', '.join(IMAGE_SUFFIXES)}. "
            f"Put them there, or change `dataset.root` or `dataset.{split}_images`."
        )
    _check_names("images", image_files, image_folder, _stem)

    suffixes = (".npy",) if same_folder else (".npy", ".png")
    files = _files(mask_folder, f"dataset.{split}_masks", "masks")
    mask_files = {_stem_and_suffix(path): path for path in files}
    candidates = [path for path in files if path.suffix.lower() in suffixes]
    _check_names("masks", candidates, mask_folder, _stem_and_suffix)
    pairs, without_mask = [], []
    for image in image_files:
        allowed = (".npy",) if same_folder and _is_png(image) else (".npy", ".png")
        keys = [(_stem(image), suffix) for suffix in allowed]
        mask = next((mask_files[key] for key in keys if key in mask_files), None)
        if mask is not None:
            pairs.append(Pair(image, mask))
        else:
            without_mask.append((image, " or ".join(f"'{stem}{suffix}'" for stem, suffix in keys)))
    stems = {_stem(path) for path in image_files}
    return Listing(pairs, without_mask, [path for path in candidates if _stem(path) not in stems])


def _files(folder: Path, key: str, kind: str) -> list[Path]:
    if not folder.is_dir():
        sample = command("sample", "BACKBONE", "--num", "N", "--output", folder, "--labels", "RUN")
        advice = f" Images of a diffusion model are made by `{sample}`."
        raise DataError(
            f"there is no folder '{folder}' of {kind}. Put the data there, or change "
            f"`dataset.root` or `{key}`.{advice if folder.name == DRAWN else ''}"
        )
    # macOS writes files such as '._a.png', which hold no image.
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check_names(
    kind: str, paths: list[Path], folder: Path, key: Callable[[Path], Hashable]
) -> None:
    first: dict[Hashable, Path] = {}
    for path in paths:
        other = first.setdefault(key(path), path)
        if other == path:
            continue
        alike = ""
        if as_read(other.name) == as_read(path.name):
            alike = ", with names that differ in their Unicode form only,"
        raise DataError(
            f"{kind} '{other.name}' and '{path.name}' in '{folder}'{alike} would share one "
            f"{'mask' if kind == 'images' else 'image'}. Rename or remove one of them."
        )


def _stem(path: Path) -> str:
    return as_read(path.stem)


def _stem_and_suffix(path: Path) -> tuple[str, str]:
    return as_read(path.stem), path.suffix.lower()


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"
