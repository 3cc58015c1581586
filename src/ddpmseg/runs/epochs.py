"""What a training of a segmentation network leaves of each of its epochs."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.datamodule import Batch
from ddpmseg.errors import CheckpointError
from ddpmseg.metrics.segmentation import SegmentationScores
from ddpmseg.records.results import write_table
from ddpmseg.records.run_folder import CHECKPOINT, EPOCHS
from ddpmseg.segmenters.export import load_segmenter, save_segmenter
from ddpmseg.training.callbacks import METRICS, append_metrics
from ddpmseg.training.distill import SegmenterTraining

log = logging.getLogger(__name__)


class EpochScores(Callback):
    """After every epoch, keeps the weights and scores them on labelled photographs.

    Must come before the callbacks that write checkpoints: one of an epoch's last step then holds
    its scores, and a training that goes on from it does not lack them. Leaves the table
    `epochs.csv` and the weights below `epochs/`, numbered from 1.

    Args:
        batches: the photographs, whenever it is called.
        facts: of the network, for the header of its weights.
    """

    def __init__(
        self,
        folder: Path,
        batches: Callable[[], Iterable[Batch]],
        classes: ClassTable,
        facts: dict[str, Any],
    ) -> None:
        self.folder, self.batches, self.classes, self.facts = folder, batches, classes, facts
        self.rows: list[dict[str, float]] = []

    @property
    def best(self) -> int:
        """The first epoch with the highest miou."""
        return int(max(self.rows, key=lambda row: row["miou"])["epoch"])

    @property
    def path_of_best(self) -> Path:
        return self._path(self.best)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        assert isinstance(pl_module, SegmenterTraining)
        step, length = trainer.global_step, pl_module.steps_per_epoch
        if step % length:
            return
        epoch = step // length
        scores = self._scores(pl_module)
        self.rows.append({"epoch": epoch, **scores})
        path = self._path(epoch)
        path.parent.mkdir(exist_ok=True)
        save_segmenter(pl_module.network, path, self.facts | {"epoch": epoch})
        write_table(self.folder / f"{EPOCHS}.csv", tuple(self.rows[0]), self.rows)
        values = {f"val/{name}": score for name, score in scores.items()}
        append_metrics(self.folder / METRICS, step, values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        log.info("epoch %d: miou %.4f on labelled photographs", epoch, scores["miou"])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        try:
            for row in self.rows:
                load_segmenter(self._path(int(row["epoch"])))
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} To train from the start instead, remove '{self.folder / CHECKPOINT}'."
            ) from error

    def _scores(self, module: SegmenterTraining) -> dict[str, float]:
        network = module.network.eval()
        counts = SegmentationScores(network.num_classes, self.classes.ignore_label)
        for images, masks, _ in self.batches():
            counts.update(network.segment(images.to(module.device)).masks.cpu(), masks)
        network.train()
        scores = counts.compute()
        return {
            "miou": float(scores.miou),
            "miou_present": float(scores.miou_present),
            "pixel_accuracy": float(scores.pixel_accuracy),
        }

    def _path(self, epoch: int) -> Path:
        return self.folder / EPOCHS / f"epoch_{epoch:03d}.safetensors"
