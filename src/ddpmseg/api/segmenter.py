"""A fitted head and its network, ready for images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ddpmseg.api.images import Pictures, fitted_images, fitted_samples
from ddpmseg.api.messages import python_names
from ddpmseg.config import TrainConfig
from ddpmseg.data.class_table import ClassTable
from ddpmseg.heads.segmenter import ImageSegmenter
from ddpmseg.metrics.segmentation import SegmentationScores
from ddpmseg.runs.record import Tested

Save = Callable[[Path, bool, Tested | None], None]


class Segmenter:
    """Makes masks of images; `ddpmseg.fit` and `ddpmseg.open_run` give it.

    Attributes:
        classes: what the labels mean; `classes.names`, `classes.colourise(mask)`.
        image_size: side of the masks, and of images as the network reads them, in pixels.
        settings: all settings it was made with, nested as in the `config.yaml` of a run.
        scores: of the last test images, 'miou', 'miou_present' and 'pixel_accuracy' in 0..1; empty
            where there were none yet.
    """

    def __init__(
        self,
        config: TrainConfig,
        classes: ClassTable,
        build: Callable[[], ImageSegmenter],
        scores: Mapping[str, float],
        save: Save,
    ) -> None:
        self.config, self.classes, self.image_size = config, classes, config.dataset.image_size
        self.scores = dict(scores)
        self._build, self._save = build, save
        self._tested: Tested | None = None

    def __repr__(self) -> str:
        scored = f", miou {self.scores['miou']:.3f}" if "miou" in self.scores else ""
        classes = self.classes.num_classes
        return f"Segmenter of {classes} classes at {self.image_size} pixels{scored}"

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    @cached_property
    def model(self) -> ImageSegmenter:
        """The network with its weights, which are read at the first use."""
        with python_names():
            return self._build()

    def __call__(self, images: Pictures, progress: bool = False) -> UInt8[np.ndarray, "n s s"]:
        """Label maps of n images, 0..K - 1, at `image_size` pixels.

        images: see `ddpmseg.api.images.Pictures`; of each the square in the middle is segmented.
        progress: shows a bar.

        Raises DataError for images that cannot be used.
        """
        found = [
            self.model.segment(some, names).masks.to(torch.uint8).cpu()
            for some, names in self._batches(images, "segment", progress)
        ]
        return torch.cat(found).numpy()

    def probabilities(
        self, images: Pictures, progress: bool = False
    ) -> Float32[np.ndarray, "n k s s"]:
        """Probability of every class at every pixel; of an ensemble the mean of its members.

        Arguments and errors as of a call.
        """
        found = [
            self.model.probabilities(some, names).cpu()
            for some, names in self._batches(images, "segment", progress)
        ]
        return torch.cat(found).numpy()

    def score(self, images: Pictures, masks: Pictures, progress: bool = False) -> dict[str, float]:
        """Compare its masks with the true ones of test images, and keep the result as `scores`.

        masks: one per image, of its height and width, with the labels of `classes`. See
        `ddpmseg.metrics.functional` for what the scores mean.

        Raises DataError for images and masks that cannot be used or do not fit each other.
        """
        with python_names():
            samples = fitted_samples(images, masks, self.classes, self.image_size)
        counts = SegmentationScores(self.classes.num_classes, self.classes.ignore_label)
        uncertainties: list[Tensor] = []
        step = self.model.images_per_pass
        with tqdm(total=len(samples), desc="test", unit="image", disable=not progress) as bar:
            for start in range(0, len(samples), step):
                part = samples[start : start + step]
                pictures = torch.stack([sample.image for sample in part])
                names = [f"test/{sample.name}" for sample in part]
                found = self.model.segment(pictures, names)
                counts.update(found.masks.cpu(), torch.stack([sample.mask for sample in part]))
                uncertainties.append(found.uncertainty.cpu())
                bar.update(len(part))
        self._tested = Tested(counts.compute(), uncertainties, len(samples))
        self.scores = self._tested.as_fractions()
        return dict(self.scores)

    def save(self, folder: str | PathLike[str], overwrite: bool = False) -> None:
        """Write it as the folder of a finished run: settings, classes, head and scores.

        `ddpmseg.open_run`, `ddpmseg predict --run` and the other commands open it; the weights of
        the network stay where they are. Raises ConfigError where the folder holds another run,
        unless `overwrite`, and for a network of your own class, which no settings describe.
        """
        with python_names():
            self._save(Path(folder), overwrite, self._tested)

    def _batches(
        self, images: Pictures, verb: str, progress: bool
    ) -> Iterator[tuple[UInt8[Tensor, "n 3 s s"], list[str]]]:
        with python_names():
            pictures, names = fitted_images(images, self.image_size)
        step = self.model.images_per_pass
        with tqdm(total=len(names), desc=verb, unit="image", disable=not progress) as bar:
            for start in range(0, len(names), step):
                part = slice(start, start + step)
                yield pictures[part], [f"predict/{name}" for name in names[part]]
                bar.update(len(names[part]))
