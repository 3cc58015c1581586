"""Where Lightning's metrics go besides `metrics.jsonl`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from ddpmseg.config import TrainConfig

KINDS = ("none", "csv", "wandb")
Claim = Callable[[], Logger | Literal[False]]
"""Makes the output folder a run's own, once its input has been read, and opens its logger."""


@contextmanager
def open_logger(config: TrainConfig, folder: Path) -> Iterator[Logger | Literal[False]]:
    """The logger of `logger.kind`, closed when the block ends.

    A W&B run is opened and finished here, so that each job of a multirun has its own, and one that
    fails is marked as failed.
    """
    if config.logger.kind == "none":
        yield False
    elif config.logger.kind == "csv":
        yield CSVLogger(folder, name="csv", version="")
    else:
        import wandb  # takes a second that no other run should pay

        with wandb.init(
            project=config.logger.project,
            mode=config.logger.mode,  # pyright: ignore[reportArgumentType]
            dir=folder,
            name=folder.name,
            job_type=config.task,
            config=asdict(config),
        ) as run:
            yield WandbLogger(experiment=run)
