"""Which mask belongs to which image of a folder."""

from dataclasses import dataclass
from pathlib import Path

from ddpmseg.data.images import IMAGE_SUFFIXES
from ddpmseg.errors import DataError

DRAWN = "ddpm"
"""Folder below a set's root of images that a diffusion model drew, as in the paper's archive."""


@dataclass(frozen=True)
class Pair:
    image: Path
    mask: Path


@dataclass(frozen=True)
class Listing:
    """The files of a split, in sorted order of their names.

    `lacking` holds the images that have no mask, each with the names a mask of it may have;
    `spare` the masks whose image is not there.
    """

    pairs: list[Pair]
    lacking: list[tuple[Path, str]]
    spare: list[Path]


def find_pairs(root: Path, split: str, images: str, masks: str | None) -> list[Pair]:
    """The images of `root/images` in sorted order, each with its mask.

    `split` is 'train' or 'test'. Raises DataError as `list_pairs`, and for an image without a mask.
    """
    listing = list_pairs(root, split, images, masks)
    if listing.lacking:
        image, expected = listing.lacking[0]
        found, wanted = len(listing.pairs), len(listing.pairs) + len(listing.lacking)
        raise DataError(
            f"no mask for image '{image.name}': expected {expected} in {root / (masks or images)}. "
            f"{found} of {wanted} pairs found. Add the mask or take the image away."
        )
    return listing.pairs


def list_pairs(root: Path, split: str, images: str, masks: str | None) -> Listing:
    """All images of `root/images`, and their masks there or in `root/masks`.

    Raises DataError for a folder that is missing or holds no image, and for images that would share
    a mask.
    """
    image_folder = root / images
    mask_folder = image_folder if masks is None else root / masks
    beside = mask_folder == image_folder
    files = _files(image_folder, f"dataset.{split}_images", "images")
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if beside:
        photographs = {path.stem for path in found if not _is_png(path)}
        found = [path for path in found if not _is_png(path) or path.stem not in photographs]
    if not found:
        raise DataError(
            f"no images in '{image_folder}': expected files ending in {', '.join(IMAGE_SUFFIXES)}. "
            f"Put them there, or change `dataset.root` or `dataset.{split}_images`."
        )
    _check_stems(found, image_folder)

    masks_found = {
        (path.stem, path.suffix.lower()): path
        for path in _files(mask_folder, f"dataset.{split}_masks", "masks")
    }
    pairs, lacking = [], []
    for image in found:
        suffixes = (".npy",) if beside and _is_png(image) else (".npy", ".png")
        keys = [(image.stem, suffix) for suffix in suffixes]
        mask = next((masks_found[key] for key in keys if key in masks_found), None)
        if mask is not None:
            pairs.append(Pair(image, mask))
        else:
            lacking.append((image, " or ".join(f"'{stem}{suffix}'" for stem, suffix in keys)))
    stems = {path.stem for path in found}
    suffixes = (".npy",) if beside else (".npy", ".png")
    spare = [
        path
        for (stem, suffix), path in masks_found.items()
        if suffix in suffixes and stem not in stems
    ]
    return Listing(pairs, lacking, spare)


def _files(folder: Path, key: str, kind: str) -> list[Path]:
    if not folder.is_dir():
        made = (
            f" Images of a diffusion model are made by `python -m ddpmseg sample BACKBONE --num N "
            f"--output {folder} --labels RUN`."
        )
        raise DataError(
            f"there is no folder '{folder}' of {kind}. Put the data there, or change "
            f"`dataset.root` or `{key}`.{made if folder.name == DRAWN else ''}"
        )
    # Names such as '._a.png' are written by macOS and hold no image.
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check_stems(images: list[Path], folder: Path) -> None:
    first: dict[str, str] = {}
    for path in images:
        other = first.setdefault(path.stem, path.name)
        if other != path.name:
            raise DataError(
                f"images '{other}' and '{path.name}' in '{folder}' would share one mask. "
                "Rename or remove one of them."
            )


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"
