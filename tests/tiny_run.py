"""A run of `ddpmseg train` at tiny size, for the tests of the programs."""

import logging
import re
import runpy
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddpmseg import config as schemas
from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_extractor
from ddpmseg.composition.checks import typed_config
from ddpmseg.composition.resolve import resolve, resolve_segmentation
from ddpmseg.config import SweepConfig, TrainConfig
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.records.cells import CellStore
from ddpmseg.sweeps.resolve import ResolvedSweep, resolve_sweep

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
UNET = (
    "backbone.unet.image_size=16",
    "backbone.unet.num_channels=32",
    "backbone.unet.channel_mult='1,2'",
    "backbone.unet.num_res_blocks=1",
    "backbone.unet.attention_resolutions='8'",
)
"""Four decoder blocks, 0 and 1 of 64 channels at half the image's size, 2 and 3 of 32 at full."""
HARDWARE = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1")
SEGMENT = (
    "backbone=random",
    "backbone.precision='32'",
    *UNET,
    "dataset.image_size=16",
    "dataset.num_labelled=3",
    "dataset.num_test=2",
    "features.blocks=[1,2]",
    "features.timesteps=[5,50]",
    "head.members=2",
    "head.hidden=[8]",
    "head.max_steps=6",
    "head.batch_size=64",
    *HARDWARE,
)
SWEEP = (
    "backbone=random",
    "backbone.precision='32'",
    *UNET,
    "dataset.image_size=16",
    "dataset.num_labelled=3",
    "dataset.num_test=2",
    "sweep.blocks=[1,2]",
    "sweep.timesteps=[5,50]",
    "sweep.head.hidden=[8]",
    "sweep.head.max_steps=6",
    "sweep.head.batch_size=64",
    "sweep.clusters.images=1",
    "sweep.num_examples=1",
    *HARDWARE,
)
"""Four cells, and the control 'pixels'; as in `SEGMENT` but for the members."""
PRETRAIN = (
    "task=pretrain",
    "backbone=random",
    *UNET,
    "pretrain.num_images=8",
    "pretrain.num_steps=6",
    "pretrain.batch_size=4",
    "pretrain.warmup_steps=2",
    "pretrain.checkpoint_every=2",
    "pretrain.sample_every=1000",
    "pretrain.num_samples=2",
    "pretrain.sample_steps=2",
    *HARDWARE,
)
DISTILL = (
    "task=distill",
    "segmenter.architecture=mobilenet",
    "segmenter.checkpoint=random",
    "segmenter.filter_out=0.2",
    "segmenter.num_epochs=2",
    "segmenter.batch_size=2",
    "dataset.image_size=16",
    "dataset.num_labelled=3",
    "dataset.num_test=2",
    *HARDWARE,
)
"""Lacks `segmenter.images`: of five of them four are left, two steps an epoch."""


@cache
def _parsed(override: str) -> Override:
    (found,) = OverridesParser.create().parse_overrides([override])
    return found


_register_once = cache(schemas.register)


def _compose(root: str, conf: Path, overrides: tuple[str, ...]) -> DictConfig:
    _register_once() if conf == CONF else schemas.register()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        return compose(root, [*overrides])


_composed_once = cache(_compose)
"""Hydra takes 0.2 s to compose, and most tests choose the same options."""


def composed(
    folder: Path | None, *overrides: str, root: str = "train", conf: Path = CONF
) -> DictConfig:
    """What `train` or `sweep` hands to its program, with `folder` as the output folder.

    None: with the default one. Options of `conf/` are composed once for each choice, the other
    overrides then set as Hydra does it. Any mistake is left to Hydra itself.
    """
    everything = overrides if folder is None else (*overrides, f"paths.output_dir={folder}")
    if conf != CONF:
        return _compose(root, conf, everything)
    values = [o for o in everything if re.match(r"(?!hydra\.)\w+\.[\w.]+=", o)]
    config = deepcopy(_composed_once(root, conf, tuple(o for o in everything if o not in values)))
    try:
        for value in map(_parsed, values):
            OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
    except OmegaConfBaseException:
        return _compose(root, conf, everything)
    return config


def checked(cfg: DictConfig, files: bool = True) -> TrainConfig:
    """The typed configuration of `train`, after all checks that need no images."""
    return resolve(typed_config(cfg), files).config


def layout_of(config: TrainConfig) -> FeatureLayout:
    """The layout that a run of task=segment will have; its images and weights may be missing."""
    return resolve_segmentation(config, files=False).layout


def extractor_of(config: TrainConfig, backbone: Backbone) -> FeatureExtractor:
    return build_extractor(config.features, backbone, config.dataset.image_size, config.seed)


def resolved_sweep(cfg: DictConfig) -> ResolvedSweep:
    return resolve_sweep(typed_config(cfg, SweepConfig))


def composed_sweep(folder: Path, *overrides: str) -> DictConfig:
    """A tiny sweep with these overrides."""
    return composed(folder, *SWEEP, *overrides, root="sweep")


def multirun(folder: Path, program: str, *overrides: str) -> int:
    """`python PROGRAM -m OVERRIDES` in `folder`, in this process; its exit status."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [program, "-m", *overrides])
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except SystemExit as error:
            return int(error.code or 0)
        finally:
            root.setLevel(before[0])
            root.handlers[:] = before[1]
    return 0


def blocks_done(folder: Path, *controls: str) -> list[list[int]]:
    """Blocks of a sweep's cells, and of those of each control, in the order they are read."""
    store = CellStore(folder)
    return [[cell.block for cell in store.read(control)] for control in ("", *controls)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but for locks, by its relative path."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != ".locks")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
