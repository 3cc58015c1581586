"""Segment any photograph with what a finished run has trained."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ddpmseg.data.images import fit_image, read_image
from ddpmseg.errors import DataError
from ddpmseg.finished.open import open_run
from ddpmseg.io.files import atomic_write, remove_unfinished
from ddpmseg.records.pictures import overlay, write_mask
from ddpmseg.runtime.device import choose_device

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
    opened = open_run(run, ("segment", "distill"))
    classes, size = opened.classes, opened.config.dataset.image_size
    segmenter = opened.image_segmenter(choose_device(accelerator))
    remove_unfinished(output_dir)
    written = []
    for path in images:
        if not path.is_file():
            raise DataError(f"image '{path}' does not exist.")
        photo = fit_image(read_image(path, str(path)), size, True, str(path))
        result = segmenter.segment(photo[None], [f"predict/{path.stem}"])
        mask = result.masks[0].cpu().numpy().astype(np.uint8)
        write_mask(output_dir / path.stem, mask, classes)
        picture = overlay(photo.permute(1, 2, 0).numpy(), mask, classes)
        with atomic_write(output_dir / f"{path.stem}_overlay.png") as unfinished:
            Image.fromarray(picture).save(unfinished, format="png")
        found = ", ".join(classes.names[label] for label in np.unique(mask))
        log.info("%s: uncertainty %.3f, %s", path, float(result.uncertainty[0]), found)
        written.append(output_dir / f"{path.stem}.npy")
    return written
