"""Training and testing of a head with Lightning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from ddpmseg.errors import TrainingError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.base import Head, Train, TrainedHead
from ddpmseg.heads.pixels import LabelledPixels, PixelVectors
from ddpmseg.heads.protocols import BatchLossStopping, Protocol
from ddpmseg.heads.segment import Segmentation, Vote
from ddpmseg.heads.segmenter import HeadSegmenter
from ddpmseg.training.steps import step_loader
from ddpmseg.training.testing import SegmentationTesting

STANDARDISED_OVER = 8192
"""Number of training pixels from which features are standardised to mean 0 and deviation 1."""


class HeadTraining(pl.LightningModule):
    """Trains all members at once on pixels of the labelled images.

    Maps stay on their device; only the vectors of a batch move to the module's. A member that stops
    early keeps its weights of that step, while the other members continue.
    """

    def __init__(
        self,
        head: TrainedHead,
        maps: NativeMaps,
        pixels: LabelledPixels,
        protocol: Protocol,
        seed: int,
    ) -> None:
        super().__init__()
        self.head, self.protocol, self.seed = head, protocol, seed
        self.pixels = pixels
        self.num_steps = protocol.steps_for(len(pixels))
        self._vectors_at = PixelVectors(maps, self.num_steps * protocol.batch_size)
        self.stopping = BatchLossStopping(head.members)
        self.finished: dict[int, dict[str, Tensor]] = {}

    def train_dataloader(self):
        return step_loader(self.batch, self.num_steps, lambda: self.trainer.global_step)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Positions and labels of a step, in the form that the head takes."""
        return self.head.batch(step, self.pixels, self.protocol, self.seed)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        positions, labels = batch
        scores = self.head(self._vectors(positions))
        losses = self._member_losses(scores.float(), labels)
        if not torch.isfinite(losses).all():
            raise TrainingError(
                f"the loss of the head is {losses.detach().tolist()} at step {self.global_step}. "
                f"Lower `head.learning_rate` ({self.protocol.learning_rate}), or look for NaN in "
                "the features: `backbone.precision=32` rules out overflow in 16 bits."
            )
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if (self.global_step + 1) % every == 0:
            # Logging takes a tenth of a step's time, so it is done only when the value is shown.
            self.log("train/loss", losses.detach().mean(), prog_bar=True)
        self._losses = losses.detach().cpu()
        return losses.sum()

    def on_train_start(self) -> None:
        # A training that goes on from a checkpoint may have stopped already.
        self.trainer.should_stop = bool(self.stopping.stopped.all())
        if self.protocol.standardise and self.global_step == 0:
            sample = self.pixels.sample(STANDARDISED_OVER, self.seed)
            self.head.standardise(self._vectors(sample).float())

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Stop members by their last loss, after the step it belongs to, as the reference does.

        The end of the batch would be too late: there the checkpoint is written before the module is
        called.
        """
        super().optimizer_step(*arguments, **options)
        if not self.protocol.stop_early:
            return
        epoch = self.global_step // self.protocol.steps_per_epoch(len(self.pixels))
        for member in self.stopping.update(epoch, self._losses).nonzero()[:, 0].tolist():
            self.finished[member] = self.head.member_state(member)
        if self.stopping.stopped.all():
            self.trainer.should_stop = True

    def _vectors(self, positions: Tensor) -> Tensor:
        return self._vectors_at(positions).to(self.device)

    def _member_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        members, pixels, _ = scores.shape
        # Members may share labels: labels (p,) belong to all, a row of (s, p) to every s-th member.
        labels = labels.to(scores.device).view(-1, pixels)
        labels = labels.repeat(members // len(labels), 1)
        # Classes second, as in memory: on a CPU several times faster than classes last.
        by_class = scores.transpose(1, 2)
        return F.cross_entropy(by_class, labels, reduction="none").mean(dim=1)

    def finish(self) -> None:
        """Give every member the weights that it stopped with. To be called after the last step.

        Not a hook of Lightning: those of the end of a training are not called for one that goes on
        from a checkpoint of its last step.
        """
        for member, state in self.finished.items():
            self.head.load_member(member, state)
        # Modules and trainers of Lightning refer to each other, so their memory would be freed only
        # when Python collects such cycles. Pixels keep the order of an epoch for every member.
        del self._vectors_at, self.pixels

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            self.head.parameters(), lr=self.protocol.learning_rate, fused=True
        )
        if not self.protocol.one_cycle:
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.protocol.learning_rate, total_steps=self.num_steps
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stopping"] = vars(self.stopping)
        checkpoint["finished"] = self.finished

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        vars(self.stopping).update(checkpoint["stopping"])
        self.finished = checkpoint["finished"]


def gradient_descent(
    protocol: Protocol,
    arguments: Mapping[str, Any],
    callbacks: Sequence[Callback] = (),
    resumed: Path | None = None,
) -> Train:
    """Trains a head by this protocol, with a Trainer of these arguments.

    resumed: a checkpoint of the same training to go on from.
    """

    def train(head: TrainedHead, maps: NativeMaps, pixels: LabelledPixels, seed: int) -> None:
        module = HeadTraining(head, maps, pixels, protocol, seed)
        trainer = pl.Trainer(**arguments, max_steps=module.num_steps, callbacks=list(callbacks))
        trainer.fit(module, ckpt_path=resumed, weights_only=True)
        module.finish()

    return train


class HeadTesting(SegmentationTesting):
    """Tests a head on the features of a frozen network."""

    def __init__(
        self, head: Head, extractor: FeatureExtractor, ignore_label: int, vote: Vote
    ) -> None:
        super().__init__(head.num_classes, ignore_label)
        self.head = head
        self.vote: Vote = vote
        # In a tuple, so that Lightning neither saves nor counts the frozen network.
        self._extractor = (extractor,)

    def on_test_start(self) -> None:
        self._segmenter = HeadSegmenter(self.head, self._extractor[0], self.vote)

    def segmentation(self, images: Tensor, names: Sequence[str]) -> Segmentation:
        return self._segmenter.segment(images, names)
