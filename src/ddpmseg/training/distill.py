"""Training and testing of a segmentation network on images labelled by an ensemble."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from ddpmseg.config import SegmenterConfig
from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.labelled import LabelledSplit
from ddpmseg.errors import TrainingError
from ddpmseg.heads.segment import Segmentation
from ddpmseg.randomness import EpochShuffle, keyed_generator
from ddpmseg.segmenters.deeplab import DeepLab
from ddpmseg.training.steps import step_loader
from ddpmseg.training.testing import SegmentationTesting

NO_LABEL = -100
"""A label that no mask holds."""


class SegmenterTraining(pl.LightningModule):
    """Trains the network with the cross-entropy of every pixel, without augmentation.

    Images and dropout of a step depend only on (seed, step). If the ignore label is one of the
    `classes` (Bedroom-28), it is trained like any other class, as in the original.
    """

    def __init__(
        self,
        network: DeepLab,
        images: LabelledSplit,
        classes: ClassTable,
        config: SegmenterConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.network, self.images, self.config, self.seed = network, images, config, seed
        self.shuffle = EpochShuffle(len(images), config.batch_size, seed)
        outside = classes.ignore_label >= classes.num_classes
        self.ignore_index = classes.ignore_label if outside else NO_LABEL
        self.steps_per_epoch = len(images) // config.batch_size
        self.num_steps = config.num_epochs * self.steps_per_epoch

    def train_dataloader(self):
        return step_loader(
            self.batch,
            self.num_steps,
            lambda: self.trainer.global_step,
            self.config.num_workers,
        )

    def batch(self, step: int) -> tuple[UInt8[Tensor, "b 3 s s"], UInt8[Tensor, "b s s"]]:
        samples = [self.images[int(index)] for index in self.shuffle.batch(step)]
        masks = torch.stack([sample.mask for sample in samples])
        return torch.stack([sample.image for sample in samples]), masks

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        images, masks = batch
        with torch.random.fork_rng([self.device.index] if self.device.type == "cuda" else []):
            stream = keyed_generator(self.seed, "dropout", self.global_step)
            torch.manual_seed(stream.initial_seed())
            scores = self.network(images)
        loss = F.cross_entropy(scores, masks.long(), ignore_index=self.ignore_index)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of the network is {loss.item()} at step {self.global_step}. Lower "
                f"`segmenter.learning_rate` ({self.config.learning_rate}) or set "
                "`trainer.precision=32-true`; the last checkpoint is intact."
            )
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, fused=True)


class SegmenterTesting(SegmentationTesting):
    """Tests a network on photographs."""

    def __init__(self, network: DeepLab, ignore_label: int) -> None:
        super().__init__(network.num_classes, ignore_label)
        self.network = network

    def segmentation(self, images: Tensor, names: Sequence[str]) -> Segmentation:
        return self.network.segment(images)
