"""The images that a network is trained on because an ensemble has labelled them."""

import logging
from pathlib import Path

from ddpmseg.config import SegmenterConfig
from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.images import IMAGE_SUFFIXES
from ddpmseg.data.labelled import LabelledFiles, LabelledSplit
from ddpmseg.data.pairs import Pair, list_pairs
from ddpmseg.data.subsets import least_uncertain, num_filtered, num_most_certain
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.samples import UNCERTAINTY, SampleFolder

log = logging.getLogger(__name__)
HOW = "`ddpmseg sample BACKBONE --num N --output FOLDER --labels RUN` draws and labels images."


def labelled_samples(
    settings: SegmenterConfig, classes: ClassTable, image_size: int
) -> LabelledSplit:
    """The images of `settings.images` that are left after the filter, in file order.

    Raises ConfigError for a folder that is not there and numbers it cannot meet, DataError for one
    without images, images without labels or, where some are to be left out, without uncertainty.
    """
    folder = images_folder(settings)
    pairs = _labelled_pairs(folder)
    if settings.num_images is not None:
        if settings.num_images > len(pairs):
            raise ConfigError(
                f"`segmenter.num_images={settings.num_images}`: '{folder}' holds {len(pairs)} "
                "images. Draw more, or set it to null for all."
            )
        pairs = pairs[: settings.num_images]
    kept = _filtered(pairs, folder, settings)
    log.info("images: %d of %d in '%s', less the filtered ones", len(kept), len(pairs), folder)
    return LabelledFiles(kept, classes, image_size, False, "keep")


def images_folder(settings: SegmenterConfig) -> Path:
    """Where the images are; ConfigError where no folder is given, or it is not there."""
    if settings.images is None:
        raise ConfigError(f"`segmenter.images` is null: name a folder of labelled images. {HOW}")
    folder = Path(settings.images).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"`segmenter.images={settings.images}`: there is no such folder. {HOW}")
    return folder


def _labelled_pairs(folder: Path) -> list[Pair]:
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
        raise DataError(
            f"there are no images in `segmenter.images={folder}`: expected files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}. {HOW}"
        )
    listing = list_pairs(folder, "train", ".", None)
    if listing.without_mask:
        image, expected = listing.without_mask[0]
        raise DataError(
            f"{len(listing.without_mask)} of the images in `segmenter.images={folder}` have no "
            f"labels, such as '{image.name}' (expected {expected}). Label them: {HOW}"
        )
    return listing.pairs


def _filtered(pairs: list[Pair], folder: Path, settings: SegmenterConfig) -> list[Pair]:
    """Less the most certain and the most uncertain ones, as the original's DatasetDDPM."""
    left_out = num_filtered(len(pairs), settings.filter_out)
    certain = settings.drop_certain
    if certain is None:
        certain = min(num_most_certain(len(pairs)), left_out)
    if certain > left_out:
        raise ConfigError(
            f"`segmenter.drop_certain={certain}`: `segmenter.filter_out={settings.filter_out}` "
            f"leaves out {left_out} of {len(pairs)} images in all. Give 0..{left_out}, or null."
        )
    if not left_out:
        return pairs
    known = SampleFolder(folder).uncertainties()
    if unknown := [pair.image.name for pair in pairs if pair.image.stem not in known]:
        raise DataError(
            f"'{folder / UNCERTAINTY}' does not say how uncertain {len(unknown)} of the images "
            f"are, such as '{unknown[0]}'. Label them again, or set `segmenter.filter_out=0` to "
            "use all."
        )
    values = [known[pair.image.stem] for pair in pairs]
    return [pairs[index] for index in least_uncertain(values, len(pairs) - left_out, certain)]
