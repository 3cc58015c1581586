"""Testing of anything that segments images, with Lightning."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from ddpmseg import ranks
from ddpmseg.heads.segment import Segmentation
from ddpmseg.metrics.segmentation import Scores, SegmentationScores


class SegmentationTesting(pl.LightningModule, ABC):
    """Scores the masks of test images batch by batch; `scores` holds the result.

    On several devices every rank segments its share, and all ranks get the scores and uncertainties
    of all images. A subclass implements `segmentation`.
    """

    def __init__(self, num_classes: int, ignore_label: int) -> None:
        super().__init__()
        self.counts = SegmentationScores(num_classes, ignore_label)
        self.scores: Scores | None = None
        self.uncertainties: list[Tensor] = []

    @abstractmethod
    def segmentation(self, images: Tensor, names: Sequence[str]) -> Segmentation:
        """Segment a batch of `ddpmseg.data.datamodule`."""

    def test_step(
        self, batch: tuple[Tensor, Tensor, Sequence[str]], batch_index: int
    ) -> Segmentation:
        images, masks, names = batch
        result = self.segmentation(images, names)
        self.counts.update(result.masks, masks)
        self.uncertainties.append(result.uncertainty.cpu())
        return result

    def on_test_epoch_end(self) -> None:
        # The metric sums its counts over the ranks.
        self.scores = self.counts.compute()
        parts = ranks.gathered(self.uncertainties)
        self.uncertainties = [value for part in parts for value in part]
        self.log("test/miou", self.scores.miou.float())
        self.log("test/miou_present", self.scores.miou_present.float())
        self.log("test/pixel_accuracy", self.scores.pixel_accuracy.float())
        self.log("test/uncertainty", torch.cat(self.uncertainties).mean())
