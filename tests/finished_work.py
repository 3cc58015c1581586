"""What every program leaves, finished and half-finished, at tiny size: for tests that damage it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from test_distill import draw_samples, tiny_deeplab
from tiny_run import DISTILL, HARDWARE, PRETRAIN, SEGMENT, SWEEP, UNET, composed, multirun

from ddpmseg.__main__ import main
from ddpmseg.data.ponies import draw_pony
from ddpmseg.runs import pretrain, segment
from ddpmseg.runs import train as runs
from ddpmseg.runs.train import train
from ddpmseg.segmenters.deeplab import ARCHITECTURES
from ddpmseg.sweeps.sweep import sweep
from ddpmseg.training.callbacks import Checkpoint

CPU = ("--accelerator", "cpu")
FEW = ("features.timesteps=[5]", "dataset.num_labelled=2")
RUN = (*SEGMENT, *FEW, "head.hidden=[8,4]")
PIXELS = (
    *("backbone=pixels", "dataset.image_size=32", "dataset.num_labelled=2", "dataset.num_test=1"),
    *("head.members=2", "head.hidden=[8]", "head.max_steps=4", *HARDWARE),
)
DISTILLED = (*DISTILL, "segmenter.architecture=tiny", "segmenter.images=samples")
GRID = (*SWEEP, "sweep.timesteps=[5]", "dataset.num_labelled=2")
JOBS = (*RUN, "features.blocks=[1],[2]", "hydra.sweep.dir=multirun")
SAMPLE = (
    *("sample", "random", *UNET, "backbone.precision='32'", *HARDWARE, "--steps", "2"),
    *("--output", "drawn", "--labels", "run", "--num", "2"),
)
ROBUSTNESS = (
    *("robustness", "pixels", "--types", "fog,contrast", "--severities", "1", *CPU),
    *("--output", "robustness", "--cache-dir", "cache"),
)


class _KilledError(Exception):
    """Stands for the end of a process."""


def _killed(*_: object, **__: object) -> None:
    raise _KilledError


def _half(folder: str, step: tuple[object, str], *given: str) -> None:
    """A run that ends where it calls this function of a module, with a checkpoint of each step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "Checkpoint", lambda path, *_: Checkpoint(path, 1))
        patch.setattr(*step, _killed)
        with pytest.raises(_KilledError):
            train(composed(Path(folder), *given))
    assert Path(folder, "last.ckpt").is_file()


@contextmanager
def small_segmenter() -> Iterator[None]:
    """An architecture 'tiny' of `task=distill`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            ARCHITECTURES, "tiny", replace(ARCHITECTURES["mobilenet"], build=tiny_deeplab)
        )
        yield


def make_finished_work(folder: Path) -> None:
    """All of it, each in a folder of its own below `folder`."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, small_segmenter():
        patch.chdir(folder)
        Image.fromarray(draw_pony(0, "test", 0, 16)[0]).save("pony.png")
        draw_samples(Path("samples"))
        train(composed(Path("run"), *RUN))
        _half("half", (segment, "write_head"), *RUN)
        train(composed(Path("pixels"), *PIXELS))
        train(composed(Path("pretrain"), *PRETRAIN))
        _half("half_pretrain", (pretrain, "_export"), *PRETRAIN)
        train(composed(Path("distill"), *DISTILLED))
        _half("half_distill", (runs, "mark_finished"), *DISTILLED)
        sweep(composed(Path("sweep"), *GRID, root="sweep"))
        assert multirun(folder, "train.py", *JOBS) == 0
        assert main([*SAMPLE]) == 0
        assert main([*ROBUSTNESS]) == 0
        assert main(["export", "run", "export"]) == 0
