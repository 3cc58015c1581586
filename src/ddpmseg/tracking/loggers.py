"""Where metrics go besides `metrics.jsonl`: the loggers of one run, opened and closed together."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from ddpmseg.config import LoggerConfig, TrainConfig
from ddpmseg.errors import ConfigError
from ddpmseg.tracking.csv_rows import ContinuedCSV
from ddpmseg.tracking.wandb_run import MODES, open_run, run_identity

if TYPE_CHECKING:
    from wandb import Run

RUNS = ("sweep", "cell")
NAME = r"[^/\\#?%:\x00-\x1f\x7f]{1,128}"
"""What W&B calls a project or a team."""
MOST_IMAGES = 24
"""Each is shown twice, and W&B takes under 50 at a time."""


@dataclass(frozen=True)
class Tracking:
    """The open loggers of a run; `run` is that of W&B, if it has one."""

    loggers: list[Logger] = field(default_factory=list)
    run: "Run | None" = None


Claim = Callable[[str | None], Tracking]
"""Makes the output folder a run's own, once its input has been read, and opens its loggers.

Its argument is the digest of the labelled images, if the task has read any."""


def check_loggers(settings: LoggerConfig) -> None:
    """ConfigError for settings that cannot work, or a logger that is not installed."""
    for name, allowed in (("mode", MODES), ("runs", RUNS)):
        given = getattr(settings, name)
        if given not in allowed:
            raise ConfigError(f"`logger.{name}={given}`: must be one of {', '.join(allowed)}.")
    if not settings.timeout >= 0:  # NaN is not
        raise ConfigError(f"`logger.timeout={settings.timeout}`: must be at least 0 seconds.")
    if not 0 <= settings.num_images <= MOST_IMAGES:
        raise ConfigError(
            f"`logger.num_images={settings.num_images}`: must lie in 0..{MOST_IMAGES}."
        )
    for name in ("project", "entity") if settings.wandb else ():
        given = getattr(settings, name)
        if given is not None and not re.fullmatch(NAME, given):
            raise ConfigError(
                f"`logger.{name}={given}`: W&B takes 1 to 128 characters, and none of "
                "/ \\ # ? % : and control characters."
            )
    if settings.tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ConfigError(
            "`logger=tensorboard`: neither of the packages tensorboard and tensorboardX is "
            "installed. `pip install tensorboard`, or choose another `logger`."
        )


@contextmanager
def open_loggers(config: TrainConfig, folder: Path, key: str) -> Iterator[Tracking]:
    """The loggers that `config.logger` asks for, closed when the block ends.

    `key` is the run's `run_key`. A W&B run is opened and finished here, so that each job of a
    multirun has its own, and one that fails is marked as failed.
    """
    settings = config.logger
    with ExitStack() as until_done:
        loggers: list[Logger] = []
        if settings.csv:
            loggers.append(ContinuedCSV(folder, name="csv", version=""))
        if settings.tensorboard:
            loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        run = None
        if settings.wandb:
            identity = run_identity(config, key)
            run = until_done.enter_context(open_run(settings, folder, identity))
            loggers.append(WandbLogger(experiment=run))
        yield Tracking(loggers, run)
