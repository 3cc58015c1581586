"""Pretraining of a guided_diffusion UNet on unlabelled images, with the package's loss."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import UInt8
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ddpmseg import ranks
from ddpmseg.backbones.guided_diffusion.fast import speed_up
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.config import PretrainConfig
from ddpmseg.data.images import ImageSource
from ddpmseg.errors import TrainingError
from ddpmseg.randomness import EpochShuffle, keyed_generator
from ddpmseg.training.steps import step_loader

RECENT = 100
"""Steps over which the loss is averaged; at the latest after so many it is checked."""


def learning_rate_factor(step: int, warmup_steps: int, num_steps: int, decay_share: float) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, plateau, linear decay to zero.

    The decay takes the last `decay_share` of all steps.
    """
    decay_steps = max(1, round(num_steps * decay_share))
    return min(1.0, (step + 1) / max(1, warmup_steps), max(0.0, (num_steps - step) / decay_steps))


class DiffusionPretraining(pl.LightningModule):
    """Learns to predict the noise in x_t (Ho et al. 2020) and, with learn_sigma, its variance.

    Images, flips, timesteps and noise of a step depend only on (seed, step). On several devices
    every rank takes its rows of the batch, and the loss is the mean over all ranks.
    """

    def __init__(self, flags: UNetFlags, config: PretrainConfig, source: ImageSource, seed: int):
        super().__init__()
        self.flags, self.config, self.source, self.seed = flags, config, source, seed
        self.shuffle = EpochShuffle(len(source), config.batch_size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet, self.diffusion = build_unet(flags)
        speed_up(self.unet)
        self.recent_losses: deque[float] = deque(maxlen=RECENT)
        # On the device: to read one, the host would have to wait for all work given to the device.
        self._unread: list[Tensor] = []
        self.network = torch.compile(self.unet) if config.compile else self.unet

    @property
    def recent_loss(self) -> float:
        """Mean over the last hundred steps that were read, 0 before the first."""
        return sum(self.recent_losses) / max(1, len(self.recent_losses))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses. Raises TrainingError instead of keeping weights that are not finite."""
        self._read_losses(self.global_step)
        checkpoint["recent_losses"] = list(self.recent_losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.recent_losses.extend(checkpoint.get("recent_losses", []))

    def on_train_end(self) -> None:
        self._read_losses(self.global_step)

    def train_dataloader(self):
        return step_loader(
            self._images_of_step,
            self.config.num_steps,
            lambda: self.trainer.global_step,
            self.config.num_workers,
        )

    def _images_of_step(self, step: int) -> tuple[int, UInt8[Tensor, "b 3 s s"]]:
        indices = self.shuffle.batch(step)
        own = indices[ranks.own_rows(len(indices))]
        return step, torch.stack([self.source[int(index)] for index in own])

    def training_step(self, batch: Sequence[Any], batch_index: int) -> Tensor:
        step, images = batch
        x_0, timesteps, noise = self._draw(step, images)
        terms = self.diffusion.training_losses(self.network, x_0, timesteps, noise=noise)
        loss = terms["loss"].mean()
        self._unread.append(ranks.mean(loss))
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        shown = (self.global_step + 1) % every == 0
        if shown or len(self._unread) == RECENT:
            self._read_losses(step + 1)
        if shown:
            self.log("pretrain/loss", self.recent_losses[-1], prog_bar=True)
        return loss

    def _read_losses(self, num_steps: int) -> None:
        """Take in the losses of the last of `num_steps` steps; TrainingError if one is not finite.

        Called before a loss is shown and before weights are written, at least every hundred steps.
        """
        losses = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for step, loss in enumerate(losses, start=num_steps - len(losses)):
            if not isfinite(loss):
                raise TrainingError(
                    f"the pretraining loss is {loss} at step {step}. Lower "
                    f"`pretrain.learning_rate` ({self.config.learning_rate}) or set "
                    "`trainer.precision=32-true`; the last checkpoint is intact."
                )
        self.recent_losses.extend(losses)

    def _draw(self, step: int, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 in [-1, 1], flipped at random; timesteps; noise. Drawn on the CPU, then moved.

        `images` are the rows of this rank; the draws for a row do not depend on the number of
        ranks. Timesteps are stratified, one from each of B equal parts of the schedule: each is
        uniform, and the batch's loss has less variance.
        """
        generator = keyed_generator(self.seed, step, 1)
        count = len(images) * ranks.num_ranks()
        own = ranks.own_rows(count)
        flips = torch.rand(count, generator=generator) < 0.5
        strata = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        total = self.diffusion.num_timesteps
        # In fp32 a draw just below the upper end can round up to it.
        timesteps = (strata * (total / count)).long().clamp(max=total - 1)
        noise = torch.randn(count, *images.shape[1:], generator=generator)
        x_0 = images.float() / 127.5 - 1
        flips = _moved(flips[own] & self.config.horizontal_flips, x_0.device)
        x_0 = torch.where(flips[:, None, None, None], x_0.flip(3), x_0)
        return x_0, _moved(timesteps[own], x_0.device), _moved(noise[own], x_0.device)

    def configure_optimizers(self):
        config = self.config
        optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                step, config.warmup_steps, config.num_steps, config.decay_share
            ),
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, without waiting for what the device has to do before."""
    if device.type != "cuda":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


class _AveragedModel(AveragedModel):
    """A copy of a module on `device` whose number of updates is known without asking the device."""

    def __init__(self, module: nn.Module, decay: float, device: torch.device) -> None:
        super().__init__(module, device)
        self.decay = decay
        self.n_averaged = self.n_averaged.cpu()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averaged: list[Tensor] = [*self.module.parameters()]
        current: list[Tensor] = [*model.parameters()]
        n = int(self.n_averaged)
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        self.n_averaged += 1


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights with a warm-up, on the device of the training.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), so that a short training forgets
    the initial weights. The module keeps its own weights, also after the training. Buffers are not
    averaged: the networks have none.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The module is moved to its device later, and a copy left behind is updated over the bus.
        if stage == "fit":
            device = trainer.strategy.root_device
            self._average_model = _AveragedModel(pl_module, self.decay, device)

    def on_train_end(self, *_: object) -> None:
        """Copy nothing: Lightning would, but only if a step was left to train."""

    @contextmanager
    def swapped_in(self, module: pl.LightningModule) -> Iterator[None]:
        """Use the averaged weights in the module until the block ends."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)
