"""Checkpoints and progress: a bar on a terminal, log lines elsewhere, and always a file."""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.types import _PATH
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from tqdm.auto import tqdm

from ddpmseg.io.damage import DAMAGE, reason_of
from ddpmseg.io.files import append_text, atomic_write
from ddpmseg.io.tensor_file import save_pickled

log = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
CONTENT = {"state_dict", "optimizer_states", "callbacks", "loops", "global_step", "epoch"}
"""Keys of a checkpoint."""


def progress_callbacks(folder: Path, log_seconds: float = 20.0) -> list[Callback]:
    """A progress bar on a terminal, else log lines every `log_seconds`; and a `MetricsFile`."""
    shown = [TQDMProgressBar()] if sys.stderr.isatty() else [_ProgressLines(log_seconds)]
    return [*shown, MetricsFile(folder / METRICS)]


def checkpoint_to_resume(path: Path, resume: bool) -> Path | None:
    """The checkpoint, if `resume` is set and there is one that is whole, else None."""
    if not resume or not path.is_file():
        return None
    try:
        with ZipFile(path) as archive:
            if broken := archive.testzip():  # compares checksums, which torch does not
                raise ValueError(f"{broken} is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if missing := CONTENT - content.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (UnpicklingError, *DAMAGE) as error:
        reason = reason_of(error)
        log.warning("'%s' is damaged (%s): training begins from the start", path, reason)
        return None
    log.info("resuming from %s", path)
    return path


class Checkpoint(Callback):
    """Saves a checkpoint after each multiple of one of `every`, numbers of steps.

    It replaces the earlier one when it is complete. All ranks of a training together write one
    file. Must come after the callbacks that keep or write something about a step: a training that
    goes on from the checkpoint of this step does not repeat it.

    Attributes:
        earlier_seconds: how long the training took until the checkpoint from which it went on.
    """

    def __init__(self, path: Path, *every: int) -> None:
        self.path, self.every = path, every
        self.earlier_seconds = 0.0
        self._started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.earlier_seconds + time.perf_counter() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_seconds = state_dict["seconds"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = _WholeFiles()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if all(trainer.global_step % every for every in self.every):
            return
        # Only rank 0 writes, but Lightning requires the call on every rank.
        trainer.save_checkpoint(self.path)


class _WholeFiles(TorchCheckpointIO):
    """Writes checkpoints in place; Lightning's own takes the way over the temporary folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        with atomic_write(Path(path)) as unfinished:
            save_pickled(checkpoint, unfinished)


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
    """Appends a JSON line per report to `metrics.jsonl`: the step and all logged values.

    The lines of a test have step 0. Lines of an earlier process that a training or test repeats are
    dropped when it begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._resumed = False
        if stage == "test":
            keep_metrics(self.path, lambda step: step > 0)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed = True
        keep_metrics(self.path, lambda step: 0 < step <= checkpoint["global_step"])

    def on_fit_start(self, *_: object) -> None:
        if not self._resumed:
            keep_metrics(self.path, lambda step: False)

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
    append_text(path, json.dumps({"step": step, **values}) + "\n")


def keep_metrics(path: Path, kept: Callable[[int], bool]) -> None:
    """Drop the lines of the steps that are not to be kept, and what is no line of `append_metrics`.

    A process that was killed or met a full disk may have left half a line.
    """
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    found = [line for line in lines if (step := _step_of(line)) is not None and kept(step)]
    if found != lines:
        with atomic_write(path) as unfinished:
            unfinished.write_text("".join(found), encoding="utf-8")


def _step_of(line: str) -> int | None:
    try:
        step = json.loads(line)["step"]
    except DAMAGE:
        return None
    return step if isinstance(step, int) and line.endswith("\n") else None
