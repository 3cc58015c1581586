"""Inspects a folder of labelled images: reads every file and names everything that is wrong."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.decode import TURNED
from ddpmseg.data.digests import FileDigests, SplitDigest, split_digest
from ddpmseg.data.images import read_image, read_mask
from ddpmseg.data.labelled import other_size
from ddpmseg.data.pairs import Listing, Pair, list_pairs
from ddpmseg.errors import DataError
from ddpmseg.io.files import file_sha256


@dataclass(frozen=True)
class SplitFolders:
    """Folders of a split, relative to the root. `masks` None: beside the images."""

    role: str
    """'train', 'test' or 'ddpm' (samples of the diffusion model)."""
    images: str
    masks: str | None = None


@dataclass(eq=False)
class SplitInspection:
    """Content of a split, and what is wrong with it.

    `pixels` and `images_with` count, for every label 0..255, its pixels and the images that hold
    it, over all masks that can be used. `verified` lists what has the known digest: 'masks',
    'images'.
    """

    folders: SplitFolders
    listing: Listing | None = None
    sizes: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    pixels: Int64[Tensor, "256"] = field(default_factory=lambda: torch.zeros(256).long())
    images_with: Int64[Tensor, "256"] = field(default_factory=lambda: torch.zeros(256).long())
    turned: int = 0
    """Images that are stored turned, and read upright."""
    verified: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    content: dict[str, Path] = field(default_factory=dict)
    """SHA-256 of an image's pixels -> its file."""


def inspect_folder(
    root: Path,
    splits: Sequence[SplitFolders],
    classes: ClassTable,
    center_crop: bool,
    known: dict[str, SplitDigest],
    known_files: FileDigests | None,
) -> list[SplitInspection]:
    """Read every file of the splits and collect what is wrong, by file where possible.

    Args:
        known: folder of images -> number of pairs and digests of that split.
        known_files: digests of files by path below `root`.

    A damaged folder raises nothing: `SplitInspection.problems` lists the damage.
    """
    inspections = []
    for folders in splits:
        inspection = SplitInspection(folders)
        try:
            inspection.listing = list_pairs(root, folders.role, folders.images, folders.masks)
        except DataError as error:
            inspection.problems.append(str(error))
        else:
            _inspect_names(inspection, known.get(folders.images))
            for pair in inspection.listing.pairs:
                _inspect_pair(inspection, pair, classes, center_crop)
            _inspect_dtypes(inspection)
            if folders.masks is None:
                _verify_digests(inspection, root, known.get(folders.images), known_files)
        inspections.append(inspection)
    _inspect_overlap(inspections)
    return inspections


def _inspect_names(inspection: SplitInspection, known: SplitDigest | None) -> None:
    listing = inspection.listing
    assert listing is not None
    folder = inspection.folders.images
    for image, expected in listing.without_mask:
        inspection.problems.append(f"image '{image}' has no mask: expected {expected}.")
    inspection.problems += [f"mask '{mask}' has no image." for mask in listing.without_image]
    count = len(listing.pairs)
    if known and count != known.pairs:
        inspection.problems.append(f"'{folder}' has {count} pairs, the paper's has {known.pairs}.")


def _inspect_pair(
    inspection: SplitInspection, pair: Pair, classes: ClassTable, center_crop: bool
) -> None:
    """Count the labels of a usable mask; add what is wrong with either file to the problems."""
    image, mask = None, None
    try:
        image = read_image(pair.image, str(pair.image))
    except DataError as error:
        inspection.problems.append(str(error))
    else:
        width, height = image.size
        inspection.sizes[f"{width}x{height}"] += 1
        inspection.turned += image.info[TURNED]
        inspection.content.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), pair.image)
        if width != height and not center_crop:
            inspection.problems.append(
                f"image '{pair.image}' is {width}x{height}; images must be square, or "
                "`dataset.center_crop=true`."
            )
    try:
        mask = read_mask(pair.mask, str(pair.mask))
        inspection.dtypes[str(mask.dtype)] += 1
        classes.check_mask(mask, str(pair.mask))
    except DataError as error:
        inspection.problems.append(str(error))
    else:
        counts = torch.from_numpy(np.bincount(mask.ravel().astype(np.int64), minlength=256))
        inspection.pixels += counts
        inspection.images_with += counts > 0
    if image is not None and mask is not None and mask.shape[::-1] != image.size:
        inspection.problems.append(other_size(mask, str(pair.mask), image, str(pair.image)))


def _inspect_dtypes(inspection: SplitInspection) -> None:
    dtypes = inspection.dtypes
    if len(dtypes) > 1:
        counts = ", ".join(f"{count} of {dtype}" for dtype, count in dtypes.most_common())
        folder = inspection.folders.images
        inspection.problems.append(f"masks of '{folder}' differ in type: {counts}.")


def _verify_digests(
    inspection: SplitInspection,
    root: Path,
    known: SplitDigest | None,
    known_files: FileDigests | None,
) -> None:
    """Compare the split with its digests; name the files that differ when each one is known."""
    listing, folder = inspection.listing, inspection.folders.images
    assert listing is not None
    images = [pair.image for pair in listing.pairs] + [image for image, _ in listing.without_mask]
    masks = [pair.mask for pair in listing.pairs] + listing.without_image
    by_file = known_files.below(folder) if known_files else None
    for kind, paths in (("masks", masks), ("images", images)):
        if known and split_digest(paths) == getattr(known, kind):
            inspection.verified.append(kind)
            continue
        differing = _differing_files(kind, paths, by_file) if by_file else []
        inspection.problems += differing
        if known and not differing:
            newest = max(paths, key=lambda path: path.stat().st_mtime, default=root)
            inspection.problems.append(
                f"the {kind} of '{folder}' are not the paper's: SHA-256 over names and contents is "
                f"{split_digest(paths)}, known is {getattr(known, kind)}. The digest cannot say "
                f"which file differs; '{newest}' was written last. Fetch the set anew."
            )
        elif by_file and not differing:
            inspection.verified.append(kind)


def _differing_files(kind: str, paths: list[Path], known: FileDigests) -> list[str]:
    """A sentence for every file that has changed, is missing, or should not be there."""
    by_name = {path.name: path for path in paths}
    sentences = []
    for name, path in by_name.items():
        if name not in known.sha256:
            sentences.append(
                f"'{path}' is not among the {kind} of {known.source}: one file too many."
            )
        elif not (digest := file_sha256(path)).startswith(known.sha256[name]):
            sentences.append(
                f"'{path}' has changed: its SHA-256 begins {digest[:12]}, in {known.source} "
                f"{known.sha256[name][:12]}."
            )
    is_mask = kind == "masks"
    missing = [
        name for name in known.sha256 if name.endswith(".npy") == is_mask and name not in by_name
    ]
    return [
        *sentences,
        *(f"'{name}' is missing from the {kind} of {known.source}." for name in missing),
    ]


def _inspect_overlap(inspections: Sequence[SplitInspection]) -> None:
    """Name images that are in more than one split, under whatever names."""
    seen: dict[str, Path] = {}
    for inspection in inspections:
        for content, image in inspection.content.items():
            if content in seen:
                inspection.problems.append(
                    f"image '{image}' is the same picture as '{seen[content]}' of another split: "
                    "training images must not be test images."
                )
        seen = inspection.content | seen
