"""Progress of a training: a bar on a terminal, log lines elsewhere, and always a file."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from tqdm.auto import tqdm

from ddpmseg.io.files import written_whole

log = logging.getLogger(__name__)
METRICS = "metrics.jsonl"


def progress_callbacks(folder: Path, log_seconds: float = 20.0) -> list[Callback]:
    """A progress bar on a terminal, else log lines every `log_seconds`; and a `MetricsFile`."""
    shown = [TQDMProgressBar()] if sys.stderr.isatty() else [_ProgressLines(log_seconds)]
    return [*shown, MetricsFile(folder / METRICS)]


class Checkpoint(Callback):
    """Saves a checkpoint every `every` steps; it replaces the earlier one when it is complete.

    All ranks of a training together write one file.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.is_global_zero:
            # A process that was killed while writing left these.
            for unfinished in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                unfinished.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step % self.every:
            return
        if not trainer.is_global_zero:
            # Only rank 0 writes, but Lightning requires the call on every rank.
            trainer.save_checkpoint(self.path)
            return
        with written_whole(self.path) as unfinished:
            trainer.save_checkpoint(unfinished)


class StepBar(Callback):
    """A bar over the steps of a training, in a terminal or a notebook."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_start(self, trainer: pl.Trainer, *_: object) -> None:
        self.bar = tqdm(total=trainer.max_steps, desc=self.title, unit="step")

    def on_train_batch_end(self, *_: object) -> None:
        self.bar.update()

    def on_train_end(self, *_: object) -> None:
        self.bar.close()


class _ProgressLines(Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = self.start = time.monotonic()
        self.start_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last = self.start = time.monotonic()
        self.start_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        step, total = trainer.global_step, trainer.max_steps
        rate = (step - self.start_step) / (now - self.start)
        values = " ".join(f"{k}={float(v):.4g}" for k, v in trainer.progress_bar_metrics.items())
        left = f", {(total - step) / rate / 60:.1f} min left" if total > 0 else ""
        log.info("step %d of %s, %.2f steps/s%s, %s", step, total, rate, left, values)


class MetricsFile(Callback):
    """Appends a JSON line per report to `metrics.jsonl`: the step and all logged values."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.global_step % every == 0:
            self._write(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # `on_test_epoch_end` would be too early: there callbacks run before the module logs.
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        append_metrics(self.path, trainer.global_step, values)


def append_metrics(path: Path, step: int, values: Mapping[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")
