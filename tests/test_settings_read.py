"""Every setting of a program is read by it: traced in tiny runs, beyond what only checks it."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from test_distill import draw_samples
from tiny_run import DISTILL, PRETRAIN, ROOT, SEGMENT, SWEEP, composed, composed_sweep, multirun

from ddpmseg import config as schemas
from ddpmseg.download.settings import DownloadConfig
from ddpmseg.errors import DownloadError
from ddpmseg.runs.train import train
from ddpmseg.sweeps import report
from ddpmseg.sweeps.sweep import sweep

SOURCE = str(ROOT / "src" / "ddpmseg")
VALUES = f"{SOURCE}/config/values.py"
"""Checks the range of every setting."""
OF_BOTH = (
    schemas.TrainerConfig,
    schemas.LoggerConfig,
    schemas.MultirunConfig,
    schemas.PathsConfig,
    schemas.MlpConfig,
    DownloadConfig,
)
OF_TRAIN = (
    *OF_BOTH,
    schemas.TrainConfig,
    schemas.FeaturesConfig,
    schemas.PretrainConfig,
    schemas.SegmenterConfig,
)
OF_SWEEP = (*OF_BOTH, schemas.SweepConfig, schemas.SweepSettings, schemas.ClustersConfig)
WATCHED = {*OF_TRAIN, *OF_SWEEP}
Read = set[tuple[str, str]]
"""(class of settings, its field)."""


@contextmanager
def reads() -> Iterator[Read]:
    """Every setting that the package reads meanwhile, typed or as it was composed."""
    found: Read = set()

    def note(kind: type, name: str) -> None:
        code = sys._getframe(2).f_code
        a_check = re.fullmatch(r"_?check(_\w+)?", code.co_name) or code.co_filename == VALUES
        if code.co_filename.startswith(SOURCE) and not a_check:
            found.update((base.__name__, name) for base in kind.__mro__ if base in WATCHED)

    def of_typed(self: object, name: str) -> object:
        note(type(self), name)
        return object.__getattribute__(self, name)

    composed = DictConfig.__getattr__

    def of_composed(self: DictConfig, name: str) -> object:
        note(OmegaConf.get_type(self) or dict, name)
        return composed(self, name)

    with pytest.MonkeyPatch.context() as patch:
        for schema in WATCHED:
            patch.setattr(schema, "__getattribute__", of_typed, raising=False)
        patch.setattr(DictConfig, "__getattr__", of_composed)
        yield found


def offered(classes: tuple[type, ...]) -> Read:
    return {(cls.__name__, f.name) for cls in classes for f in fields(cls)}


UNREAD_BY_TRAIN = {
    ("LoggerConfig", "runs"): "of sweep.py, whose loggers have the same schema",
    ("LoggerConfig", "timeout"): "of an upload, for which these runs lack a network",
}
UNREAD_BY_SWEEP = {
    ("LoggerConfig", "csv"): "of train.py: it is refused",
    ("LoggerConfig", "tensorboard"): "of train.py: it is refused",
    ("LoggerConfig", "timeout"): "as of train.py",
    ("LoggerConfig", "num_images"): "of train.py, whose loggers have the same schema",
    ("MultirunConfig", "share_gb"): "of train.py: a sweep shares its passes anyway",
    ("TrainerConfig", "resume"): "of train.py: a sweep goes on from its cells",
    ("MlpConfig", "name"): "of the family, which its class says: it is checked",
    ("MlpConfig", "vote"): "of several members, where a probe is one",
    ("MlpConfig", "checkpoint_sha256"): "of head.checkpoint, which a sweep refuses",
}
QUICK = ("logger=wandb", "logger.mode=disabled")
NOWHERE = (
    "dataset=folder",
    "dataset.root=nowhere",
    "dataset.classes=ponies",
    "dataset.url='http://127.0.0.1:1/set.zip'",
    "dataset.download=true",
)
"""A download that fails at once."""


def test_settings_of_train(tmp_path: Path) -> None:
    images = draw_samples(tmp_path / "images")
    once = ("pretrain.num_steps=1", "pretrain.sample_every=1", "pretrain.num_samples=1")
    others = (
        (*PRETRAIN, *once),
        (*PRETRAIN, *once, f"pretrain.images={images}"),
        (*DISTILL, f"segmenter.images={images}", "segmenter.num_epochs=1"),
    )
    with reads() as found:
        assert multirun(tmp_path, "train.py", *SEGMENT, *QUICK) == 0
        with pytest.raises(DownloadError):
            train(composed(tmp_path / "none", *SEGMENT, *NOWHERE))
        for number, overrides in enumerate(others):
            train(composed(tmp_path / str(number), *overrides))
    assert offered(OF_TRAIN) - found == UNREAD_BY_TRAIN.keys()


def test_settings_of_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "save_figures", lambda *_: [])  # which take no settings, but time
    grid = ("sweep.timesteps=null", "sweep.grid_timesteps=[5]", "sweep.head.max_steps=1")
    with reads() as found:
        assert multirun(tmp_path, "sweep.py", *SWEEP, *grid, *QUICK) == 0
        with pytest.raises(DownloadError):
            sweep(composed_sweep(tmp_path / "none", *NOWHERE))
    assert offered(OF_SWEEP) - found == UNREAD_BY_SWEEP.keys()
