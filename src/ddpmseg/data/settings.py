"""The schemas under `conf/dataset/`."""

from dataclasses import dataclass

from omegaconf import MISSING

from ddpmseg.download.settings import DownloadConfig


@dataclass
class DatasetConfig:
    """Labelled images: which, how many, at what size."""

    _target_: str = MISSING
    name: str = MISSING
    classes: str = MISSING
    """A class table shipped with the package, or the path of a YAML file like those."""
    image_size: int = 64
    """Side in pixels at which images are seen and masks are predicted."""
    num_labelled: int | None = None
    """Labelled training images to use; null: the number the paper used, or all there are."""
    subset_seed: int | None = None
    """Seed that orders the training images; null: file order. Smaller subsets lie inside larger."""
    num_test: int | None = None
    """Test images to use, the first in file order; null: all."""
    tiny_annotations: str = "scaled"
    """What becomes of a class that covers under 20 pixels (at 256x256) of a training image:
    'scaled' ignores it there, the 20 scaled to the image's area; 'reference' ignores it under 20
    pixels at any size, as the original code; 'keep' trains on it."""


@dataclass
class FolderDatasetConfig(DownloadConfig, DatasetConfig):
    """Photographs and masks in folders."""

    _target_: str = "ddpmseg.data.labelled.LabelledFolder"
    root: str = MISSING
    train_images: str = "real/train"
    """Folders below `root`. Masks lie beside the images, or in the two `*_masks` folders."""
    train_masks: str | None = None
    test_images: str = "real/test"
    test_masks: str | None = None
    center_crop: bool = False
    split: str = "official"
    """'official': the folders as they are; 'random': their images dealt anew, in the same numbers,
    as behind the paper's standard deviations."""
    split_seed: int = 0
    """Draws the random split."""


@dataclass
class PoniesConfig(DatasetConfig):
    """The procedural set; nothing is read from disk."""

    _target_: str = "ddpmseg.data.labelled.Ponies"
    seed: int = 0
