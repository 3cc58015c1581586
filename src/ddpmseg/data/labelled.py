"""Labelled images: photographs with masks in folders, and the procedural ponies."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ddpmseg.data.class_table import ClassTable, load_class_table
from ddpmseg.data.decode import TURNED
from ddpmseg.data.file_names import as_read
from ddpmseg.data.images import fit_image, fit_mask, read_image, read_mask
from ddpmseg.data.pairs import Pair, find_pairs
from ddpmseg.data.ponies import CLASS_NAMES, draw_pony
from ddpmseg.data.subsets import nested_subset, random_split
from ddpmseg.data.tiny import drop_tiny_annotations, tiny_threshold
from ddpmseg.errors import ConfigError, DataError

SPLITS = ("official", "random")
PONY_SCENES = 10_000
"""Number of scenes from which a split of the ponies is chosen. They are drawn, not stored."""


@dataclass(frozen=True)
class Sample:
    """One image with its mask: labels 0..K-1, or the class table's ignore label."""

    image: UInt8[Tensor, "3 s s"]
    mask: UInt8[Tensor, "s s"]
    name: str


CACHED_BYTES = 2**30
"""Limit of the decoded images a split keeps in memory: a sweep reads them for every timestep."""


class LabelledSplit(Dataset[Sample], ABC):
    """The training or the test images of a set, read or drawn on first access.

    Samples stay in memory up to a total of `CACHED_BYTES`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._cached: dict[int, Sample] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        if index in self._cached:
            return self._cached[index]
        sample = self._sample(index)
        self._cached_bytes += sample.image.nbytes + sample.mask.nbytes
        if self._cached_bytes <= CACHED_BYTES:
            self._cached[index] = sample
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def files(self) -> Sequence[Path] | None:
        """All files that samples are read from; None if that is unknown."""
        return None

    @abstractmethod
    def _sample(self, index: int) -> Sample: ...


@runtime_checkable
class LabelledSet(Protocol):
    """The dataset that the settings `dataset.*` describe."""

    name: str
    classes: ClassTable
    image_size: int
    train: LabelledSplit
    test: LabelledSplit


class LabelledFolder:
    """Images and masks in folders, in the layout of the paper's sets or another.

    The arguments are the fields of `ddpmseg.config.FolderDatasetConfig`. A mask has its image's
    stem and the suffix .npy; .png works too in a folder of masks, and beside an image that is no
    .png itself. Images are used in sorted order of file names. Nothing is decoded here.

    `split` 'random' pools the images of both folders and splits them anew by `split_seed`, into as
    many training images as the official split uses and as many test images as it has.

    Raises ConfigError for a setting that cannot work; DataError for a missing or empty folder, an
    image without a mask, too few images, and a random split when both folders hold the same name.
    """

    def __init__(
        self,
        name: str,
        classes: str,
        root: str,
        image_size: int = 64,
        num_labelled: int | None = None,
        subset_seed: int | None = None,
        num_test: int | None = None,
        tiny_annotations: str = "scaled",
        train_images: str = "real/train",
        train_masks: str | None = None,
        test_images: str = "real/test",
        test_masks: str | None = None,
        center_crop: bool = False,
        split: str = "official",
        split_seed: int = 0,
    ) -> None:
        _check_settings(image_size, tiny_annotations)
        if split not in SPLITS:
            raise ConfigError(f"`dataset.split={split}`: must be one of {', '.join(SPLITS)}.")
        self.name, self.image_size = name, image_size
        self.classes = load_class_table(classes)
        folder = Path(root).expanduser()

        train = find_pairs(folder, "train", train_images, train_masks)
        test = find_pairs(folder, "test", test_images, test_masks)
        paper = self.classes.num_labelled
        if split == "random":
            num_train = min(paper or len(train), len(train))
            train, test = _split_randomly(train, test, num_train, split_seed)
        where = f"'{folder / train_images}'"
        count = _count("num_labelled", num_labelled, paper, len(train), where)
        chosen = [train[index] for index in nested_subset(count, len(train), subset_seed)]
        self.train: LabelledSplit = LabelledFiles(
            chosen, self.classes, image_size, center_crop, tiny_annotations
        )
        count = _count("num_test", num_test, None, len(test), f"'{folder / test_images}'")
        self.test: LabelledSplit = LabelledFiles(
            test[:count], self.classes, image_size, center_crop, "keep"
        )


class Ponies:
    """The procedural set of `ddpmseg.data.ponies`.

    The arguments are the fields of `ddpmseg.config.PoniesConfig`. Raises ConfigError for a setting
    that cannot work, DataError for more than `PONY_SCENES` images.
    """

    def __init__(
        self,
        name: str,
        classes: str,
        image_size: int = 64,
        num_labelled: int | None = None,
        subset_seed: int | None = None,
        num_test: int | None = None,
        tiny_annotations: str = "scaled",
        seed: int = 0,
    ) -> None:
        _check_settings(image_size, tiny_annotations)
        self.name, self.image_size = name, image_size
        self.classes = table = load_class_table(classes)
        if table.num_classes != len(CLASS_NAMES):
            raise ConfigError(
                f"`dataset.classes={classes}` has {table.num_classes} classes, the ponies have "
                f"{len(CLASS_NAMES)}. Set `dataset.classes=ponies`."
            )
        where = "the ponies' split"
        count = _count("num_labelled", num_labelled, table.num_labelled, PONY_SCENES, where)
        scenes = nested_subset(count, PONY_SCENES, subset_seed)
        self.train: LabelledSplit = _Scenes(
            scenes, "train", seed, table, image_size, tiny_annotations
        )
        count = _count("num_test", num_test, table.num_test, PONY_SCENES, where)
        self.test: LabelledSplit = _Scenes(
            list(range(count)), "test", seed, table, image_size, "keep"
        )


class LabelledFiles(LabelledSplit):
    """Images and masks of `find_pairs`, at `image_size` pixels.

    `center_crop`, `tiny_annotations`: as of `LabelledFolder`. Reading a sample raises DataError for
    a file that cannot be used, and for a mask of another size or with labels of no class.
    """

    def __init__(
        self,
        pairs: list[Pair],
        classes: ClassTable,
        image_size: int,
        center_crop: bool,
        tiny_annotations: str,
    ) -> None:
        super().__init__(pair.image.stem for pair in pairs)
        self.pairs, self.classes, self.image_size = pairs, classes, image_size
        self.center_crop, self.tiny_annotations = center_crop, tiny_annotations

    def files(self) -> list[Path]:
        return [path for pair in self.pairs for path in (pair.image, pair.mask)]

    def _sample(self, index: int) -> Sample:
        pair = self.pairs[index]
        return labelled_sample(
            read_image(pair.image, str(pair.image)),
            read_mask(pair.mask, str(pair.mask)),
            self.classes,
            self.image_size,
            center_crop=self.center_crop,
            tiny_annotations=self.tiny_annotations,
            name=self.names[index],
            shown_as=(str(pair.image), str(pair.mask)),
        )


def labelled_sample(
    image: Image.Image,
    mask: Integer[np.ndarray, "h w"],
    classes: ClassTable,
    image_size: int,
    *,
    center_crop: bool,
    tiny_annotations: str,
    name: str,
    shown_as: tuple[str, str],
) -> Sample:
    """An RGB image and its labels at `image_size` pixels; messages call the two `shown_as`.

    `center_crop`, `tiny_annotations`: as of `LabelledFolder`. Raises DataError for a mask of
    another size or with labels of no class, and for an image that would have to be cropped.
    """
    image_name, mask_name = shown_as
    height, width = mask.shape
    if (width, height) != image.size:
        raise DataError(other_size(mask, mask_name, image, image_name))
    classes.check_mask(mask, mask_name)
    labels = drop_tiny_annotations(
        fit_mask(mask, image_size), classes.ignore_label, tiny_annotations, image_size
    )
    fitted = fit_image(image, image_size, center_crop, image_name)
    return Sample(fitted, torch.from_numpy(labels), name)


def other_size(
    mask: Integer[np.ndarray, "h w"], mask_name: str, image: Image.Image, image_name: str
) -> str:
    """The sentence for a mask that has not the size of its image."""
    height, width = mask.shape
    upright = ""
    if image.info.get(TURNED):
        upright = (
            ", read upright: the file stores it turned, with a note (EXIF orientation) that "
            "viewers follow"
        )
    return (
        f"mask '{mask_name}' is {width}x{height}, but image '{image_name}' is "
        f"{image.width}x{image.height}{upright}. Give the mask one label per pixel of its image."
    )


class _Scenes(LabelledSplit):
    def __init__(
        self,
        scenes: list[int],
        split: str,
        seed: int,
        classes: ClassTable,
        image_size: int,
        tiny_annotations: str,
    ) -> None:
        super().__init__(f"{split}_{scene:05d}" for scene in scenes)
        self.scenes, self.split, self.seed = scenes, split, seed
        self.ignore_label, self.image_size = classes.ignore_label, image_size
        self.tiny_annotations = tiny_annotations

    def files(self) -> list[Path]:
        return []

    def _sample(self, index: int) -> Sample:
        image, mask = draw_pony(self.scenes[index], self.split, self.seed, self.image_size)
        labels = drop_tiny_annotations(
            mask, self.ignore_label, self.tiny_annotations, self.image_size
        )
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return Sample(pixels, torch.from_numpy(labels), self.names[index])


def _split_randomly(
    train: list[Pair], test: list[Pair], num_train: int, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Pool the pairs and split them anew.

    Source: paper, table 2, whose deviations are over five random splits of the real images.
    """
    pool = {as_read(pair.image.stem): pair for pair in train}
    for pair in test:
        other = pool.setdefault(as_read(pair.image.stem), pair)
        if other is not pair:
            raise DataError(
                f"`dataset.split=random` puts '{other.image}' and '{pair.image}' into one pool, "
                "where a name must identify one image. Rename one of them, or remove it if both "
                "show the same."
            )
    names = sorted(pool)
    for_training, for_testing = random_split(num_train, len(test), len(names), seed)
    return [pool[names[i]] for i in for_training], [pool[names[i]] for i in for_testing]


def _check_settings(image_size: int, tiny_annotations: str) -> None:
    if image_size < 1:
        raise ConfigError(f"`dataset.image_size={image_size}` must be at least 1 pixel.")
    tiny_threshold(tiny_annotations, image_size)


def _count(key: str, setting: int | None, paper: int | None, available: int, where: str) -> int:
    """Number of images to use: the setting, else the class table's number, else all."""
    if setting is not None and setting < 1:
        raise ConfigError(f"`dataset.{key}={setting}` must be at least 1, or null.")
    count = next(number for number in (setting, paper, available) if number is not None)
    if count > available:
        source = "" if setting is not None else " (from the class table)"
        raise DataError(
            f"`dataset.{key}` is {count}{source}, but {where} has only {available} labelled "
            f"images. Set `dataset.{key}` to at most {available}."
        )
    return count
