"""Batches of labelled images for Lightning."""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ddpmseg import ranks
from ddpmseg.data.labelled import LabelledSet, LabelledSplit, Sample

Batch = tuple[Tensor, Tensor, list[str]]
"""Images uint8 (b, 3, s, s), masks uint8 (b, s, s), names as 'train/NAME' or 'test/NAME'."""


class LabelledImages(pl.LightningDataModule):
    """The training and the test images of a dataset, in order, `batch_size` at a time.

    On several devices a loader gives this rank's share, see `ranks.shares`.
    """

    def __init__(self, dataset: LabelledSet, batch_size: int) -> None:
        super().__init__()
        self.dataset, self.batch_size = dataset, batch_size

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.dataset.train, "train")

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.dataset.test, "test")

    def _loader(self, split: LabelledSplit, role: str) -> DataLoader:
        def collate(samples: list[Sample]) -> Batch:
            # The noise of an image is keyed by its name, which both splits may use.
            return (
                torch.stack([sample.image for sample in samples]),
                torch.stack([sample.mask for sample in samples]),
                [f"{role}/{sample.name}" for sample in samples],
            )

        own = ranks.shares(len(split), self.batch_size)[ranks.rank()]
        images = split if len(own) == len(split) else Subset(split, own)
        return DataLoader(images, self.batch_size, shuffle=False, collate_fn=collate)
