"""Training recipes of the head, and the rule by which the original stops."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddpmseg.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """How the members are trained. Optimiser: Adam, cross-entropy without class weights.

    max_steps: steps in all; None: as many as `max_epochs` take.
    shared_batches: all members see the same pixels in each step, so that their first layers are one
        matrix product; otherwise every member draws its own.
    balance: pixels of a class with n pixels are drawn in proportion to n ** (1 - balance); 0 is
        plain shuffling, 1 gives all classes the same share.
    standardise: features are scaled to mean 0 and deviation 1 over a sample of the training pixels.
    one_cycle: the learning rate rises to its peak and falls to zero (Smith and Topin 2018);
        otherwise it is constant.
    stop_early: see `BatchLossStopping`.
    """

    batch_size: int
    learning_rate: float
    max_steps: int | None
    max_epochs: int
    shared_batches: bool
    balance: float
    standardise: bool
    one_cycle: bool
    stop_early: bool

    def steps_for(self, num_pixels: int) -> int:
        """Steps at most, for that many training pixels; an incomplete last batch is dropped."""
        return self.max_steps or self.max_epochs * self.steps_per_epoch(num_pixels)

    def steps_per_epoch(self, num_pixels: int) -> int:
        return max(1, num_pixels // self.batch_size)


PROTOCOLS = {
    # Source: reference `train_interpreter.py` (paper section 3.2, "training").
    "paper": Protocol(
        batch_size=64,
        learning_rate=1e-3,
        max_steps=None,
        max_epochs=100,
        shared_batches=False,
        balance=0.0,
        standardise=False,
        one_cycle=False,
        stop_early=True,
    ),
    "fast": Protocol(
        batch_size=1024,
        learning_rate=5e-3,
        max_steps=300,
        max_epochs=1,
        shared_batches=True,
        balance=0.5,
        standardise=True,
        one_cycle=True,
        stop_early=False,
    ),
}


def choose_protocol(
    name: str,
    max_steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> Protocol:
    """A named protocol with some of its numbers replaced; ConfigError for an unknown name."""
    if name not in PROTOCOLS:
        raise ConfigError(f"`head.protocol={name}`: must be one of {', '.join(PROTOCOLS)}.")
    given = {"max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate}
    for key, value in given.items():
        if value is not None and value <= 0:
            raise ConfigError(f"`head.{key}={value}`: must be greater than 0, or null.")
    changes = {key: value for key, value in given.items() if value is not None}
    return replace(PROTOCOLS[name], **changes)  # pyright: ignore[reportArgumentType]


class BatchLossStopping:
    """The reference's early stop, for each member by itself.

    The first four epochs always run. From then on the lowest loss of a single batch is remembered;
    after more than 50 batches in a row without a lower one, the member stops.
    Source: reference `train_interpreter.py`.
    """

    full_epochs, patience = 4, 50

    def __init__(self, members: int) -> None:
        self.best = torch.full((members,), torch.inf)
        self.waited = torch.zeros(members, dtype=torch.long)
        self.stopped = torch.zeros(members, dtype=torch.bool)

    def update(self, epoch: int, losses: Float[Tensor, " m"]) -> Bool[Tensor, " m"]:
        """Take in one batch loss per member; returns which members stop now."""
        if epoch < self.full_epochs:
            return torch.zeros_like(self.stopped)
        better = losses < self.best
        self.best = torch.where(better, losses, self.best)
        self.waited = torch.where(better, 0, self.waited + 1)
        stops = (self.waited > self.patience) & ~self.stopped
        self.stopped |= stops
        return stops
