"""Images of a diffusion model labelled by the ensemble of a finished run."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ddpmseg.data.class_table import ClassTable, load_class_table
from ddpmseg.data.convert.folder import CLASSES
from ddpmseg.data.images import fit_image, read_image
from ddpmseg.errors import ConfigError
from ddpmseg.finished.open import FinishedRun, listed, open_run
from ddpmseg.heads.export import HEAD
from ddpmseg.io.files import atomic_write, file_sha256
from ddpmseg.records.pictures import contact_sheet, overlay
from ddpmseg.records.samples import SampleFolder, name_of

log = logging.getLogger(__name__)

OVERVIEW = "overview/overlays.png"
NUM_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Labeller:
    """A finished run of `train` that segments other images: its head, features and classes."""

    run: FinishedRun
    device: torch.device

    @property
    def classes(self) -> ClassTable:
        return self.run.classes

    @property
    def settings(self) -> dict[str, Any]:
        """What the labels depend on. Plain JSON values."""
        return {
            "head_sha256": file_sha256(self.run.folder / HEAD),
            "vote": self.run.config.head.vote,
            "precision": self.run.config.backbone.precision_on(self.device),
        }


def load_labeller(run: Path, image_size: int, dataset_root: Path, device: torch.device) -> Labeller:
    """The run in folder `run`, to label images of `image_size` pixels of the set in `dataset_root`.

    Raises UserError where it is not finished, or works at another size or with other classes than
    the set's `classes.yaml`, where there is one.
    """
    opened = open_run(run)
    says, size = f"`--labels {run}`: this run", opened.config.dataset.image_size
    if size != image_size:
        raise ConfigError(
            f"{says} segments images of {size} pixels, the backbone draws "
            f"{image_size}. Name a run of `dataset.image_size={image_size}`."
        )
    classes, table = opened.classes, dataset_root / CLASSES
    if table.is_file():
        wanted = load_class_table(str(table))
        if wanted.names != classes.names:
            raise ConfigError(
                f"{says} knows the classes {listed(classes.names)}, the set in '{dataset_root}' "
                f"has {listed(wanted.names)} ('{table}'). Name a run trained on that set, or an "
                "`--output` elsewhere."
            )
    return Labeller(opened, device)


def label_images(folder: SampleFolder, labeller: Labeller, num: int) -> None:
    """Give the first `num` images of the folder their labels, where they have none.

    As the original's DatasetDDPM: noise is added to a drawn image anew and the network reads it
    like any other image. What is read is the stored image, of 8 bits per channel.
    """
    indices = set(folder.unlabelled(num))
    if not indices:
        return
    segmenter = labeller.run.image_segmenter(labeller.device)
    image_size = labeller.run.config.dataset.image_size
    folder.write_uncertainties(folder.uncertainties())
    started, size = time.perf_counter(), segmenter.images_per_pass
    # The passes are those of a command that labels all: kernels add in another order for others.
    firsts = sorted({index // size * size for index in indices})
    for first in tqdm(firsts, "labelled", disable=not sys.stderr.isatty()):
        batch = range(first, min(first + size, num))
        images = torch.stack([_read(folder, index, image_size) for index in batch])
        found = segmenter.segment(images, [f"sample/{name_of(index)}" for index in batch])
        masks = found.masks.cpu().numpy().astype(np.uint8)
        rows = [(row, index) for row, index in enumerate(batch) if index in indices]
        # Before the masks: an image is labelled once it has both.
        folder.add_uncertainties(
            {name_of(index): float(found.uncertainty[row]) for row, index in rows}
        )
        for row, index in rows:
            folder.write_mask(index, masks[row], labeller.classes)
    log.info("%d images labelled in %.1f s", len(indices), time.perf_counter() - started)


def write_overview(folder: SampleFolder, indices: Sequence[int], classes: ClassTable) -> None:
    """A picture of some of these images over their labels, from the most certain to the least."""
    known = folder.uncertainties()
    ordered = sorted(indices, key=lambda index: known[name_of(index)])
    steps = np.linspace(0, len(ordered) - 1, min(NUM_SHOWN, len(ordered))).round().astype(int)
    shown = [ordered[step] for step in steps]
    photos = [np.asarray(read_image(path, str(path))) for path in map(folder.image_path, shown)]
    labels = [
        overlay(photo, folder.mask(index), classes)
        for photo, index in zip(photos, shown, strict=True)
    ]
    titles = [f"{name_of(index)}: {known[name_of(index)]:.3f}" for index in shown]
    path = folder.folder / OVERVIEW
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as unfinished:
        contact_sheet([photos, labels], classes, titles).save(unfinished, format="png")


def _read(folder: SampleFolder, index: int, image_size: int) -> torch.Tensor:
    path = folder.image_path(index)
    return fit_image(read_image(path, str(path)), image_size, False, str(path))
