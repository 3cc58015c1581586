"""`task=pretrain`: from images to the weights of a diffusion model."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torchvision.utils import save_image

from ddpmseg import ranks
from ddpmseg.backbones.guided_diffusion.sampler import Sampler
from ddpmseg.composition.resolve import ResolvedRun
from ddpmseg.config import PretrainConfig, TrainConfig
from ddpmseg.data.images import CachedImages, ImageFiles, ImageSource, PonyImages
from ddpmseg.io.files import atomic_write, file_sha256
from ddpmseg.io.tensor_file import write_safetensors
from ddpmseg.records.run_folder import CHECKPOINT
from ddpmseg.runtime.processes import StopAtOnce
from ddpmseg.tracking.loggers import Claim, Tracking
from ddpmseg.tracking.wandb_media import log_model, log_picture
from ddpmseg.training.callbacks import Checkpoint, checkpoint_to_resume, progress_callbacks
from ddpmseg.training.pretrain import AveragedWeights, DiffusionPretraining

log = logging.getLogger(__name__)


def run_pretraining(run: ResolvedRun, claim: Claim, command: str) -> None:
    """Train, sample and export.

    Calls `claim` before it writes the first file. Leaves in `paths.output_dir`: `last.ckpt` (to
    resume from), `samples_*.png`, `unet.safetensors` (the averaged weights in fp16) and its card
    `unet.json`. On several devices rank 0 writes them.
    """
    config, folder = run.config, run.folder
    settings = config.pretrain
    flags = config.backbone.unet_flags()
    assert flags is not None
    source = image_source(settings, flags.image_size, config.seed)
    tracking = claim(None)
    module = DiffusionPretraining(flags, settings, source, config.seed)
    averaging = AveragedWeights(settings.ema_decay)
    checkpoint = Checkpoint(folder / CHECKPOINT, settings.checkpoint_every)
    first = ranks.is_first()
    samples = _Samples(folder, averaging, tracking)
    trainer = pl.Trainer(
        accelerator=run.device.type,
        devices=config.trainer.devices,
        strategy="ddp" if config.trainer.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision=run.precision,  # pyright: ignore[reportArgumentType]
        max_steps=settings.num_steps,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=config.trainer.log_every_n_steps,
        default_root_dir=folder,
        logger=tracking.loggers,
        callbacks=[
            *([StopAtOnce()] if config.trainer.devices > 1 else []),
            averaging,
            *([samples, *progress_callbacks(folder)] if first else []),
            checkpoint,
        ],
        enable_checkpointing=False,
        enable_progress_bar=first and sys.stderr.isatty(),
        enable_model_summary=False,
    )
    resumed = checkpoint_to_resume(checkpoint.path, config.trainer.resume)
    trainer.fit(module, ckpt_path=resumed, weights_only=True)
    if first:
        with averaging.swapped_in(module):
            card = _export(module, trainer.global_step, folder, config, command)
        if tracking.run and config.logger.artifacts:
            log_model(tracking.run, "unet", folder / "unet.safetensors", card)


def image_source(settings: PretrainConfig, image_size: int, seed: int) -> ImageSource:
    """The images of `pretrain.images`, or ponies where it is null, kept in memory if wished."""
    if settings.images is None:
        source = PonyImages(settings.num_images, image_size, seed)
    else:
        source = ImageFiles(settings.images, image_size, settings.center_crop)
    log.info("pretraining on %d images of %d pixels", len(source), image_size)
    return CachedImages(source, image_size) if settings.cache_images else source


class _Samples(Callback):
    """Draw a few images now and then: the quickest way to see that a training goes well."""

    def __init__(self, folder: Path, averaging: AveragedWeights, tracking: Tracking) -> None:
        self.folder, self.averaging, self.tracking = folder, averaging, tracking

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        assert isinstance(pl_module, DiffusionPretraining)
        settings = pl_module.config
        if trainer.global_step % settings.sample_every:
            return
        with (
            self.averaging.swapped_in(pl_module),
            trainer.strategy.precision_plugin.forward_context(),
        ):
            sampler = Sampler(pl_module.unet.eval(), pl_module.flags, settings.sample_steps)
            images = sampler(pl_module.seed, range(settings.num_samples))
        pl_module.train()
        path = self.folder / f"samples_{trainer.global_step:08d}.png"
        with atomic_write(path) as unfinished:
            save_image(images.float() / 255, unfinished, nrow=4, padding=2, format="png")
        if self.tracking.run:
            log_picture(self.tracking.run, "examples/samples", path)


def _export(
    module: DiffusionPretraining, num_steps: int, folder: Path, config: TrainConfig, command: str
) -> dict[str, Any]:
    """Write the weights of the module in fp16, and a card that says what they are; returns it."""
    path = folder / "unet.safetensors"
    state = module.unet.state_dict()
    write_safetensors({k: v.detach().half().cpu().contiguous() for k, v in state.items()}, path)
    card = {
        "sha256": file_sha256(path),
        "command": command,
        "parameters": sum(value.numel() for value in state.values()),
        "data": config.pretrain.images or f"{config.pretrain.num_images} scenes of ponies",
        "seed": config.seed,
        "steps": num_steps,
        "loss": module.recent_loss,
        "unet": asdict(module.flags),
        "pretrain": asdict(config.pretrain),
        "torch": torch.__version__,
    }
    with atomic_write(folder / "unet.json") as unfinished:
        unfinished.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    log.info("averaged weights in %s", path)
    return card
