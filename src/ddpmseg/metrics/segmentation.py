"""Scores of a whole set of masks, accumulated batch by batch and over processes."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ddpmseg.errors import ConfigError
from ddpmseg.metrics import functional


class Scores(NamedTuple):
    """Agreement of predicted and true masks of a set: fractions in [0, 1], float64, on the CPU."""

    miou: Float64[Tensor, ""]
    """The paper's definition; see `ddpmseg.metrics.functional`."""
    miou_present: Float64[Tensor, ""]
    """Jaccard index over the classes that occur, ignored pixels dropped."""
    pixel_accuracy: Float64[Tensor, ""]
    """Ignored pixels dropped."""
    iou: Float64[Tensor, " k"]
    """Per class as in `miou`; NaN for a class equal to the ignore label."""
    iou_present: Float64[Tensor, " k"]
    """Per class as in `miou_present`; NaN also for a class that does not occur."""
    confusion: Int64[Tensor, "k_plus_1 k"]
    """Pixels by true label (last row: ignored) and predicted label, on the device of the metric."""


class SegmentationScores(Metric):
    """Accumulates a table of counts over batches and processes, and computes `Scores` from it.

    Args:
        num_classes: K, the number of outputs of the head, at least 2.
        ignore_label: the label of pixels without a class; it may be one of the classes.

    Raises ConfigError for fewer than two classes.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, ignore_label: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError(
                f"a segmentation into {num_classes} classes cannot be scored; at least 2 are "
                "needed, background included. Change the class table named by `dataset.classes`."
            )
        self.num_classes, self.ignore_label = num_classes, ignore_label
        empty = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64)
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, prediction: Integer[Tensor, "..."], truth: Integer[Tensor, "..."]) -> None:
        """Add two masks of one shape: predictions in 0..K-1, truth in 0..K-1 or the ignore label.

        Raises DataError as `functional.confusion`.
        """
        self.counts += functional.confusion(prediction, truth, self.num_classes, self.ignore_label)

    def compute(self) -> Scores:
        """Scores of all masks since the last reset."""
        return Scores(
            miou=functional.miou(self.counts, self.ignore_label),
            miou_present=functional.miou_present(self.counts, self.ignore_label),
            pixel_accuracy=functional.pixel_accuracy(self.counts),
            iou=functional.iou_per_class(self.counts, self.ignore_label),
            iou_present=functional.iou_per_class_present(self.counts, self.ignore_label),
            confusion=self.counts,
        )
