"""Segment any photograph with what a finished run has trained."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpmseg.composition.build import build_backbone, build_extractor
from ddpmseg.config import TrainConfig
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.images import fit_image, read_image
from ddpmseg.errors import DataError
from ddpmseg.heads.export import load_head
from ddpmseg.heads.segment import Segmentation, segment
from ddpmseg.io.files import written_whole
from ddpmseg.records.load import load_config
from ddpmseg.records.pictures import overlay, write_mask
from ddpmseg.runtime.device import choose_device
from ddpmseg.segmenters.export import SEGMENTER, load_segmenter

log = logging.getLogger(__name__)


def predict(
    images: Sequence[Path], run: Path, output_dir: Path, accelerator: str = "auto"
) -> list[Path]:
    """Write STEM.npy, STEM.png (mask) and STEM_overlay.png for every image; returns the masks.

    A photograph that is not square is cropped to its centre. Raises UserError when the run is not
    finished, an image cannot be read, or two images would share a name.
    """
    stems = [path.stem for path in images]
    if len(set(stems)) < len(stems):
        raise DataError("two images have the same name without its suffix; rename one of them.")
    config = load_config(run)
    classes = load_class_table(config.dataset.classes)
    segmented = _segmenter(config, run, choose_device(accelerator))
    written = []
    for path in images:
        if not path.is_file():
            raise DataError(f"image '{path}' does not exist.")
        photo = fit_image(read_image(path, str(path)), config.dataset.image_size, True, str(path))
        result = segmented(photo[None], f"predict/{path.stem}")
        mask = result.masks[0].cpu().numpy().astype(np.uint8)
        write_mask(output_dir / path.stem, mask, classes)
        picture = overlay(photo.permute(1, 2, 0).numpy(), mask, classes)
        with written_whole(output_dir / f"{path.stem}_overlay.png") as unfinished:
            Image.fromarray(picture).save(unfinished, format="png")
        found = ", ".join(classes.names[label] for label in np.unique(mask))
        log.info("%s: uncertainty %.3f, %s", path, float(result.uncertainty[0]), found)
        written.append(output_dir / f"{path.stem}.npy")
    return written


def _segmenter(
    config: TrainConfig, run: Path, device: torch.device
) -> Callable[[Tensor, str], Segmentation]:
    """Segments a photograph (1, 3, s, s) of a name: with a head, or with a network of its own."""
    if config.task == "distill":
        network = load_segmenter(run / SEGMENTER)[0].to(device)
        return lambda photo, _: network.segment(photo.to(device))
    head, _ = load_head(run / "head.safetensors")
    extractor = build_extractor(config, build_backbone(config.backbone, device))
    reader = head.to(device).reader(extractor.layout, extractor.backbone.dtype)
    vote = config.head.vote
    return lambda photo, name: segment(reader, extractor(photo, [name]), vote)  # pyright: ignore
