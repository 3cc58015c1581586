"""Open what `ddpmseg train` or `Segmenter.save` left."""

from math import isnan
from os import PathLike
from pathlib import Path

import torch

from ddpmseg.api.messages import python_names
from ddpmseg.api.segmenter import Segmenter
from ddpmseg.errors import ConfigError
from ddpmseg.finished import open as finished
from ddpmseg.heads.segmenter import ImageSegmenter
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.runs.record import Tested
from ddpmseg.runtime.device import choose_device


def open_run(folder: str | PathLike[str], device: str | torch.device = "auto") -> Segmenter:
    """A finished run as a segmenter, with the scores and settings it recorded.

    folder: output folder of `ddpmseg train` (task=segment or distill), or of `Segmenter.save`.
    device: see `ddpmseg.load_backbone`. Weights are read when the first image is segmented.

    Raises ConfigError and DataError for a folder of another kind or an unfinished run,
    CheckpointError where head or weights are not those of the run.

    >>> import ddpmseg, tempfile
    >>> backbone = ddpmseg.load_backbone("ddpm_ponies", device="cpu")
    >>> images, masks = ddpmseg.ponies(3)
    >>> segmenter = ddpmseg.fit(
    ...     backbone, images, masks, [6], [50], members=1, max_steps=20, progress=False
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     segmenter.save(folder)
    ...     again = ddpmseg.open_run(folder, device="cpu")
    ...     bool((again(images) == segmenter(images)).all())
    True
    >>> again.settings["features"]["blocks"]
    [6]
    """
    with python_names():
        run = finished.open_run(Path(folder), ("segment", "distill"))
        classes = run.classes
    recorded = {name: float(run.results[name]) for name in METRICS}
    scores = {name: score for name, score in recorded.items() if not isnan(score)}

    def build() -> ImageSegmenter:
        chosen = device if isinstance(device, torch.device) else choose_device(device)
        return run.image_segmenter(chosen)

    def save(target: Path, overwrite: bool, tested: Tested | None) -> None:
        raise ConfigError(f"this run is in '{run.folder}' already: copy that folder.")

    return Segmenter(run.config, classes, build, scores, save)
