"""Whether a folder of labelled images is whole: every file read, everything wrong named."""

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
from ddpmseg.data.digests import FileDigests, SplitDigest, split_digest
from ddpmseg.data.images import read_image, read_mask
from ddpmseg.data.pairs import Listing, Pair, list_pairs
from ddpmseg.errors import DataError
from ddpmseg.io.files import file_sha256


@dataclass(frozen=True)
class SplitFolders:
    """Where a split lies below the root. `masks` None: beside the images."""

    role: str
    """'train', 'test' or 'ddpm' (samples of the diffusion model)."""
    images: str
    masks: str | None = None


@dataclass(eq=False)
class SplitCheck:
    """What a split holds, and what is wrong with it.

    `pixels` and `images_with` count, for every label 0..255, its pixels and the images it occurs
    in, over all masks that can be used. `compared` says which digests were found to be the known
    ones: of 'masks', of 'images'.
    """

    folders: SplitFolders
    listing: Listing | None = None
    sizes: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    pixels: Int64[Tensor, "256"] = field(default_factory=lambda: torch.zeros(256).long())
    images_with: Int64[Tensor, "256"] = field(default_factory=lambda: torch.zeros(256).long())
    compared: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    content: dict[str, Path] = field(default_factory=dict)
    """The image of every content, by the digest of its pixels."""


def check_folder(
    root: Path,
    splits: Sequence[SplitFolders],
    classes: ClassTable,
    center_crop: bool,
    known: dict[str, SplitDigest],
    known_files: FileDigests | None,
) -> list[SplitCheck]:
    """Read every file of the splits and collect what is wrong, where possible by file.

    Args:
        known: pairs and digests of splits, by the folder of their images.
        known_files: digests of files by path below `root`.

    Raises nothing for a damaged folder: `SplitCheck.problems` tells.
    """
    checks = []
    for folders in splits:
        check = SplitCheck(folders)
        try:
            check.listing = list_pairs(root, folders.role, folders.images, folders.masks)
        except DataError as error:
            check.problems.append(str(error))
        else:
            _check_names(check, known.get(folders.images))
            for pair in check.listing.pairs:
                _check_pair(check, pair, classes, center_crop)
            _check_uniform(check)
            if folders.masks is None:
                _compare(check, root, known.get(folders.images), known_files)
        checks.append(check)
    _check_overlap(checks)
    return checks


def _check_names(check: SplitCheck, known: SplitDigest | None) -> None:
    listing = check.listing
    assert listing is not None
    folder = check.folders.images
    for image, expected in listing.lacking:
        check.problems.append(f"image '{image}' has no mask: expected {expected}.")
    check.problems += [f"mask '{mask}' has no image." for mask in listing.spare]
    count = len(listing.pairs)
    if known and count != known.pairs:
        check.problems.append(f"'{folder}' has {count} pairs, the paper's has {known.pairs}.")


def _check_pair(check: SplitCheck, pair: Pair, classes: ClassTable, center_crop: bool) -> None:
    """Count what the mask holds if both files can be used, else say what is wrong with them."""
    size, shape = None, None
    try:
        image = read_image(pair.image, str(pair.image))
    except DataError as error:
        check.problems.append(str(error))
    else:
        size = image.size
        check.sizes[f"{size[0]}x{size[1]}"] += 1
        check.content.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), pair.image)
        if size[0] != size[1] and not center_crop:
            check.problems.append(
                f"image '{pair.image}' is {size[0]}x{size[1]}; images must be square, or "
                "`dataset.center_crop=true`."
            )
    try:
        mask = read_mask(pair.mask, str(pair.mask))
        shape = mask.shape
        check.dtypes[str(mask.dtype)] += 1
        classes.check_mask(mask, str(pair.mask))
    except DataError as error:
        check.problems.append(str(error))
    else:
        counts = torch.from_numpy(np.bincount(mask.ravel().astype(np.int64), minlength=256))
        check.pixels += counts
        check.images_with += counts > 0
    if size and shape and (shape[1], shape[0]) != size:
        check.problems.append(
            f"mask '{pair.mask}' is {shape[1]}x{shape[0]}, but image '{pair.image}' is "
            f"{size[0]}x{size[1]}."
        )


def _check_uniform(check: SplitCheck) -> None:
    if len(check.dtypes) > 1:
        found = ", ".join(f"{count} of {dtype}" for dtype, count in check.dtypes.most_common())
        check.problems.append(f"masks of '{check.folders.images}' differ in type: {found}.")


def _compare(
    check: SplitCheck, root: Path, known: SplitDigest | None, known_files: FileDigests | None
) -> None:
    """Hold the split against its digests, and name the files that differ where each is known."""
    listing, folder = check.listing, check.folders.images
    assert listing is not None
    images = [pair.image for pair in listing.pairs] + [image for image, _ in listing.lacking]
    masks = [pair.mask for pair in listing.pairs] + listing.spare
    singly = known_files.below(folder) if known_files else None
    for kind, paths in (("masks", masks), ("images", images)):
        if known and split_digest(paths) == getattr(known, kind):
            check.compared.append(kind)
            continue
        named = _differing(kind, paths, singly) if singly else []
        check.problems += named
        if known and not named:
            newest = max(paths, key=lambda path: path.stat().st_mtime, default=root)
            check.problems.append(
                f"the {kind} of '{folder}' are not the paper's: SHA-256 over names and contents is "
                f"{split_digest(paths)}, known is {getattr(known, kind)}. Which file it is, the "
                f"digest cannot say; '{newest}' was written last. Fetch the set anew."
            )
        elif singly and not named:
            check.compared.append(kind)


def _differing(kind: str, paths: list[Path], singly: FileDigests) -> list[str]:
    """A sentence for every file that has changed, is missing, or should not be there."""
    there = {path.name: path for path in paths}
    told = []
    for name, path in there.items():
        if name not in singly.sha256:
            told.append(f"'{path}' is not among the {kind} of {singly.source}: one file too many.")
        elif not (digest := file_sha256(path)).startswith(singly.sha256[name]):
            told.append(
                f"'{path}' has changed: its SHA-256 begins {digest[:12]}, in {singly.source} "
                f"{singly.sha256[name][:12]}."
            )
    is_mask = kind == "masks"
    missing = [
        name for name in singly.sha256 if name.endswith(".npy") == is_mask and name not in there
    ]
    return told + [f"'{name}' is missing from the {kind} of {singly.source}." for name in missing]


def _check_overlap(checks: Sequence[SplitCheck]) -> None:
    """Name images that are in more than one split, whatever their names."""
    seen: dict[str, Path] = {}
    for check in checks:
        for content, image in check.content.items():
            if content in seen:
                check.problems.append(
                    f"image '{image}' is the same picture as '{seen[content]}' of another split: "
                    "what was trained on must not be tested on."
                )
        seen = check.content | seen
