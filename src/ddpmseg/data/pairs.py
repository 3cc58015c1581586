"""Pairs the images of a folder with their masks."""

from dataclasses import dataclass
from pathlib import Path

from ddpmseg.command_line import command
from ddpmseg.data.images import IMAGE_SUFFIXES
from ddpmseg.errors import DataError

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

    `split` is 'train' or 'test'. Raises DataError as `list_pairs`, and for an image without a mask.
    """
    listing = list_pairs(root, split, images, masks)
    if listing.without_mask:
        image, expected = listing.without_mask[0]
        complete, total = len(listing.pairs), len(listing.pairs) + len(listing.without_mask)
        raise DataError(
            f"no mask for image '{image.name}': expected {expected} in {root / (masks or images)}. "
            f"{complete} of {total} pairs found. Add the mask or remove the image."
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
        stems = {path.stem for path in image_files if not _is_png(path)}
        image_files = [path for path in image_files if not _is_png(path) or path.stem not in stems]
    if not image_files:
        raise DataError(
            f"no images in '{image_folder}': expected files ending in {', '.join(IMAGE_SUFFIXES)}. "
            f"Put them there, or change `dataset.root` or `dataset.{split}_images`."
        )
    _check_stems(image_files, image_folder)

    mask_files = {
        (path.stem, path.suffix.lower()): path
        for path in _files(mask_folder, f"dataset.{split}_masks", "masks")
    }
    pairs, without_mask = [], []
    for image in image_files:
        suffixes = (".npy",) if same_folder and _is_png(image) else (".npy", ".png")
        keys = [(image.stem, suffix) for suffix in suffixes]
        mask = next((mask_files[key] for key in keys if key in mask_files), None)
        if mask is not None:
            pairs.append(Pair(image, mask))
        else:
            without_mask.append((image, " or ".join(f"'{stem}{suffix}'" for stem, suffix in keys)))
    stems = {path.stem for path in image_files}
    suffixes = (".npy",) if same_folder else (".npy", ".png")
    without_image = [
        path
        for (stem, suffix), path in mask_files.items()
        if suffix in suffixes and stem not in stems
    ]
    return Listing(pairs, without_mask, without_image)


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
