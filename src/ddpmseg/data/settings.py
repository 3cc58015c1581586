"""The settings of a dataset: number, size and source of the images."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from ddpmseg.download.settings import DownloadConfig
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.limits import gigabytes, machine_memory
from ddpmseg.settings import PartConfig, at_least, one_of

if TYPE_CHECKING:
    from ddpmseg.data.arrays import LabelledArrays
    from ddpmseg.data.class_table import ClassTable
    from ddpmseg.data.labelled import LabelledSet

log = logging.getLogger(__name__)
SMALLEST_IMAGE = 8
"""Side in pixels."""
BYTES_OF_PIXEL = 16
"""Of an image as it is drawn or read, as numbers of a network, and of its mask."""


@dataclass
class DatasetConfig(PartConfig):
    """Labelled images.

    A dataset of your own derives from this class, see docs/add_a_dataset.md. The module imports
    torch only when a method is called, so that completing a command line need not wait for it.
    """

    group: ClassVar[str] = "dataset"

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
    'scaled' ignores it there, the 20 scaled to the image's area, which is the original code's rule
    at 256 pixels only; 'reference' ignores it under 20 pixels at any size, as the original code;
    'keep' trains on it."""

    def build(self) -> "LabelledSet":
        """Build the dataset. Raises ConfigError and DataError if it cannot be used."""
        return self.construct()

    def check(self) -> None:
        from ddpmseg.data.tiny import RULES

        at_least("dataset.image_size", self.image_size, SMALLEST_IMAGE)
        needed, memory = self.image_size**2 * BYTES_OF_PIXEL, machine_memory()
        if needed > memory:
            raise ConfigError(
                f"`dataset.image_size={self.image_size}`: a single image takes "
                f"{gigabytes(needed)} of memory, and this machine has {gigabytes(memory)}."
            )
        at_least("dataset.num_labelled", self.num_labelled, 1)
        at_least("dataset.num_test", self.num_test, 1)
        one_of("dataset.tiny_annotations", self.tiny_annotations, RULES)
        self.class_table()

    def class_table(self) -> "ClassTable":
        """The classes of the masks. Raises ConfigError if there is no such table."""
        from ddpmseg.data.class_table import load_class_table

        return load_class_table(self.classes)

    def announced(self) -> tuple[int, int]:
        """Numbers of training and test images in the settings or the class table; 0: unknown.

        For a forecast before the images exist.
        """
        table = self.class_table()
        return self.num_labelled or table.num_labelled or 0, self.num_test or table.num_test or 0

    def on_disk(self) -> "FolderDatasetConfig | None":
        """The settings of the folder that `data check` reads; None without a folder."""
        return None

    def fetch(self, downloads: Path) -> None:
        raise ConfigError(f"`dataset={self.name}` is drawn when asked for: nothing to fetch.")


@dataclass
class FolderDatasetConfig(DownloadConfig, DatasetConfig):
    """Photographs and masks in folders."""

    noun: ClassVar[str] = "data"
    damaged: ClassVar = DataError

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

    @property
    def folder(self) -> Path:
        return Path(self.root).expanduser()

    def check(self) -> None:
        from ddpmseg.data.labelled import SPLITS

        super().check()
        one_of("dataset.split", self.split, SPLITS)

    def check_files(self) -> None:
        if not self.will_fetch() and not self.folder.is_dir():
            raise ConfigError(
                f"`dataset.root={self.root}`: no such folder. It must hold "
                f"'{self.train_images}' and '{self.test_images}'.{self.how_to_get()}"
            )

    def missing(self) -> Path | None:
        from ddpmseg.data.dataset_archive import holds_something

        return None if holds_something(self.folder) else self.folder

    def fetch(self, downloads: Path) -> None:
        """Fetch the set's archive and unpack its folder as `root`.

        The archive stays in `downloads` for its other sets. An existing folder stays unchanged.
        Raises ConfigError if nothing can be fetched, DownloadError and DataError as
        `ddpmseg.download.fetch.fetch` and `unpack_folder`.
        """
        from ddpmseg.data.dataset_archive import unpack_folder
        from ddpmseg.download.fetch import fetch

        source, root = self.source(), self.folder
        if self.missing() is None:
            log.info(
                "'%s' exists already; `%s` verifies it. To fetch it anew, remove it first.",
                *(root, self.command("check")),
            )
            return
        # Archives of different mirrors may share a name, so each has its own folder.
        folder = downloads / hashlib.sha256(source.url.encode()).hexdigest()[:8]
        name = source.url.partition("?")[0].rstrip("/").rpartition("/")[2] or "archive.tar"
        archive = folder / name
        if not archive.is_file():
            self.log_terms(archive)
        fetch(source, archive)
        unpack_folder(archive, self.name, root)
        log.info("'%s' unpacked; `%s` verifies it.", root, self.command("check"))

    def on_disk(self) -> "FolderDatasetConfig":
        return self


@dataclass
class PoniesConfig(DatasetConfig):
    """The procedural set; nothing is read from disk."""

    _target_: str = "ddpmseg.data.labelled.Ponies"
    seed: int = 0


@dataclass
class ArraysConfig(DatasetConfig):
    """Images that a Python program held in memory: what is recorded of them."""

    _target_: str = "ddpmseg.data.arrays.LabelledArrays"
    content_sha256: str = MISSING
    """Digest of all images and masks, at `image_size`."""
    table: dict[str, Any] = field(default_factory=dict)
    """The classes, as in a class table's file."""

    @classmethod
    def of(cls, dataset: "LabelledArrays", sha256: str, tiny_annotations: str) -> "ArraysConfig":
        return cls(
            name=dataset.name,
            classes=dataset.classes.name,
            image_size=dataset.image_size,
            num_labelled=len(dataset.train) or None,
            num_test=len(dataset.test) or None,
            tiny_annotations=tiny_annotations,
            content_sha256=sha256,
            table=dataset.classes.record(),
        )

    def construct(self, **changes: Any) -> Any:
        raise ConfigError(
            f"`dataset={self.name}`: its images were given to a Python program and are on no disk. "
            "Give them again there, or make a folder of them and use `dataset=folder`."
        )

    def class_table(self) -> "ClassTable":
        from ddpmseg.data.class_table import read_class_table

        return read_class_table(self.table, f"dataset '{self.name}'")
