"""`task=pretrain`: from images to the weights of a diffusion model."""

import json
import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from safetensors.torch import save_file

from ddpmseg.backbones.unet import UNetFlags
from ddpmseg.backbones.weights import file_sha256
from ddpmseg.config import GuidedDiffusionConfig, TrainConfig
from ddpmseg.data.images import CachedImages, ImageFiles, ImageSource, PonyImages
from ddpmseg.errors import ConfigError
from ddpmseg.tracking.files import written_whole
from ddpmseg.training.callbacks import progress_callbacks
from ddpmseg.training.pretrain import DiffusionPretraining, ema_callback, sample_images

log = logging.getLogger(__name__)


def run_pretraining(config: TrainConfig, command: str) -> Path:
    """Train, sample and export; returns the path of the exported weights.

    Leaves in `paths.output_dir`: `last.ckpt` (to resume from), `samples_*.png`,
    `unet.safetensors` (the averaged weights in fp16) and its card `unet.json`.
    """
    if not isinstance(config.backbone, GuidedDiffusionConfig):
        raise ConfigError("task=pretrain needs a guided_diffusion backbone; set `backbone`.")
    folder, flags, settings = Path(config.paths.output_dir), config.backbone.unet, config.pretrain
    module = DiffusionPretraining(flags, settings, image_source(config), config.seed)
    checkpoint = folder / "last.ckpt"
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=config.trainer.precision,  # pyright: ignore[reportArgumentType]
        max_steps=settings.num_steps,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=config.trainer.log_every_n_steps,
        default_root_dir=folder,
        logger=False,
        callbacks=[
            ema_callback(settings.ema_decay),
            _Checkpoint(checkpoint, settings.checkpoint_every),
            _Samples(folder, flags, settings.sample_every, config.seed),
            *progress_callbacks(folder),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    resume = checkpoint if config.trainer.resume and checkpoint.is_file() else None
    if resume:
        log.info("resuming from %s", resume)
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    return _export(module, trainer, folder, config, command)


def image_source(config: TrainConfig) -> ImageSource:
    """The images of `pretrain.images`, or ponies where it is null, kept in memory if wished."""
    settings, size = config.pretrain, config.backbone.unet.image_size  # pyright: ignore
    if settings.images is None:
        source = PonyImages(settings.num_images, size, config.seed)
    else:
        source = ImageFiles(settings.images, size, settings.center_crop)
    log.info("pretraining on %d images of %d pixels", len(source), size)
    return CachedImages(source, size) if settings.cache_images else source


class _Checkpoint(Callback):
    """Save everything needed to go on, replacing the file only once the new one is complete."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            with written_whole(self.path) as unfinished:
                trainer.save_checkpoint(unfinished)


class _Samples(Callback):
    """Draw a few images now and then: the quickest way to see that a training goes well."""

    def __init__(self, folder: Path, flags: UNetFlags, every: int, seed: int) -> None:
        self.folder, self.flags, self.every, self.seed = folder, flags, every, seed

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        assert isinstance(pl_module, DiffusionPretraining)
        if trainer.global_step % self.every:
            return
        settings = pl_module.config
        average = next(c for c in trainer.callbacks if isinstance(c, type(ema_callback(0.5))))  # pyright: ignore
        unet = average._average_model.module.unet  # pyright: ignore
        with torch.autocast(pl_module.device.type, torch.bfloat16):
            images = sample_images(
                unet, self.flags, settings.num_samples, settings.sample_steps, self.seed
            )
        rows = images.unflatten(0, (-1, 4)) if len(images) % 4 == 0 else images[:, None]
        sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        path = self.folder / f"samples_{trainer.global_step:08d}.png"
        with written_whole(path) as unfinished:
            Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(unfinished, format="png")


def _export(
    module: DiffusionPretraining, trainer: pl.Trainer, folder: Path, config: TrainConfig, command: str
) -> Path:
    path = folder / "unet.safetensors"
    with written_whole(path) as unfinished:
        save_file(
            {k: v.detach().half().cpu().contiguous() for k, v in module.unet.state_dict().items()},
            unfinished,
        )
    card = {
        "command": command,
        "sha256": file_sha256(path),
        "steps": trainer.global_step,
        "loss": float(trainer.callback_metrics["pretrain/loss"]),
    }
    with written_whole(folder / "unet.json") as unfinished:
        unfinished.write_text(json.dumps(card, indent=2))
    return path
