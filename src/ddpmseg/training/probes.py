"""Testing of the probes of a sweep with Lightning."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from ddpmseg import ranks
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.heads.probe_set import ProbeSet
from ddpmseg.metrics.functional import member_confusions


class ProbeTesting(pl.LightningModule):
    """Segments test images batch by batch and accumulates the confusion of every probe.

    `counts` holds the confusion of each probe (m, k + 1, k) over all images, `masks` the probes'
    masks of the first `num_examples` images (m, n, s, s). On several devices every rank segments
    its share, and at the end all ranks have the counts and masks of all images.
    """

    counts: Tensor

    def __init__(
        self, probes: ProbeSet, extractor: FeatureExtractor, ignore_label: int, num_examples: int
    ) -> None:
        super().__init__()
        self.probes, self.ignore_label, self.num_examples = probes, ignore_label, num_examples
        # In a tuple, so that Lightning neither saves nor counts the frozen network.
        self._extractor = (extractor,)
        shape = (probes.members, probes.num_classes + 1, probes.num_classes)
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.int64))
        self._examples: list[Tensor] = []

    def on_test_start(self) -> None:
        self._reader = self.probes.label_reader(self._extractor[0].backbone.dtype)

    def test_step(self, batch: tuple[Tensor, Tensor, Sequence[str]], batch_index: int) -> None:
        images, truths, names = batch
        labels = self._reader(self._extractor[0](images, names))
        self.counts += member_confusions(labels, truths, self.probes.num_classes, self.ignore_label)
        missing = self.num_examples - sum(part.shape[1] for part in self._examples)
        # The first part is appended even if empty: it gives the masks their shape.
        if missing > 0 or not self._examples:
            self._examples.append(labels[:, :missing].cpu())

    def on_test_epoch_end(self) -> None:
        self.counts = ranks.total(self.counts)
        masks = torch.cat(ranks.gathered(self.masks), dim=1)
        self._examples = [masks[:, : self.num_examples]]

    @property
    def masks(self) -> Tensor:
        return torch.cat(self._examples, dim=1)
