"""One process per device: how they start, share the processor, and end together."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from pytorch_lightning.callbacks import Callback

from ddpmseg import ranks
from ddpmseg.config import TrainerConfig
from ddpmseg.errors import ConfigError, UserError
from ddpmseg.runtime.device import choose_device

log = logging.getLogger(__name__)
THREADS = torch.get_num_threads()
"""Processor threads of a process that has the machine to itself."""
PATIENCE = timedelta(days=30)
"""Ranks wait for rank 0 while it trains a head or draws samples; a rank that dies ends all."""
OBSERVER = "lightning_fabric.strategies.launchers.subprocess_script"
"""Says which process has died before it ends the others."""


@contextmanager
def processes(trainer: TrainerConfig) -> Iterator[None]:
    """The block runs in `trainer.devices` processes, each on its own device; one is just a block.

    Lightning starts the others with the command of this one, unless torchrun or SLURM has done so
    already. When one fails all end: it says what was wrong, and the exit status of rank 0 is not 0.
    Raises ConfigError where the surroundings give another number of processes.
    """
    if trainer.devices == 1:
        yield
        return
    started = _launch(trainer)
    if not ranks.is_first():
        Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
        torch.distributed.destroy_process_group()
    except UserError as error:
        _end(started)
        if ranks.is_first():
            raise
        raise type(error)(f"rank {ranks.rank()}: {error}") from error
    except Exception:
        if not ranks.is_first():
            log.error("rank %d failed", ranks.rank())
            raise
        # Most likely another rank has failed and the connection to it broke.
        status = _first_failure(started, seconds=2)
        _end(started)
        if status:
            sys.exit(status)
        raise
    except BaseException:
        _end(started)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    for process in started:
        process.wait()
    if status := _first_failure(started):
        sys.exit(status)


class StopAtOnce(Callback):
    """For a Trainer of several ranks: end on SIGTERM, as everywhere in `processes`.

    Lightning answers it with a broadcast that the other ranks, still training, never join.
    """

    def on_train_start(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, _stop)


@contextmanager
def all_threads() -> Iterator[None]:
    """While the other ranks wait, this one uses the processor threads of all."""
    if ranks.num_ranks() == 1:
        yield
        return
    shared = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(shared)


def _launch(trainer: TrainerConfig) -> list[subprocess.Popen]:
    """Start the other ranks and connect all; returns the processes that were started here."""
    logging.getLogger(OBSERVER).setLevel(logging.INFO)
    # Small things travel between processors whatever the device, as they do with gloo.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        fabric = Fabric(
            accelerator=choose_device(trainer.accelerator).type,
            devices=trainer.devices,
            strategy=DDPStrategy(process_group_backend=backend, timeout=PATIENCE),
        )
        fabric.launch()
    except ValueError as error:
        raise ConfigError(f"`trainer.devices={trainer.devices}`: {error}") from error
    if ranks.num_ranks() != trainer.devices:
        raise ConfigError(
            f"`trainer.devices={trainer.devices}`: {ranks.num_ranks()} processes were started. A "
            "run uses the devices of one machine: start as many processes as devices, on one node."
        )
    if not ranks.is_first():
        logging.getLogger().setLevel(logging.WARNING)
    log.info("%d processes, %d threads each", ranks.num_ranks(), torch.get_num_threads())
    return getattr(fabric.strategy.launcher, "procs", [])


def _first_failure(started: list[subprocess.Popen], seconds: float = 0) -> int:
    """The status of a process that has failed; 0 where none has and none does within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        for rank, process in enumerate(started, 1):
            if status := process.poll():
                log.error("the process of rank %d ended with status %d", rank, status)
                return abs(status)
        if time.monotonic() >= deadline:
            return 0
        time.sleep(0.05)


def _stop(signum: int, _: object) -> None:
    sys.exit(128 + signum)


def _end_with(parent: int) -> None:
    """End this process once the one that started it has gone, however that came about."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _end(started: list[subprocess.Popen]) -> None:
    for process in started:
        process.kill()
