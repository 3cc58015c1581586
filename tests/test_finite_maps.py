"""Maps beyond the range of 16 bits end a program before a head or a mask is made of them."""

from pathlib import Path

import pytest
import torch
from golden_fill import filled_backbone
from safetensors.torch import save_file
from tiny_backbones import TINY
from tiny_run import SEGMENT, SWEEP, composed

from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.errors import FeatureError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

SAYS = (
    r"map of block 2 at t = 5 of backbone '\w+' .*not finite in `backbone\.precision=16`.*"
    r"`backbone\.precision=32`"
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights with which block 2, and so block 3, passes 65504 but stays finite in bfloat16."""
    state = dict(filled_backbone(TINY).unet.state_dict())
    name = "output_blocks.2.0.out_layers.3.bias"
    state[name] = torch.full_like(state[name], 1e5)
    path = tmp_path / "large.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def extractor(weights: Path, precision: str, blocks: list[int]) -> FeatureExtractor:
    backbone = GuidedDiffusionBackbone("large", TINY, str(weights), precision)
    return FeatureExtractor(backbone, blocks, [5, 50], image_size=16)


def test_an_overflow_is_named_and_nothing_else_is_refused(weights: Path) -> None:
    images = torch.arange(3 * 256, dtype=torch.int32).view(1, 3, 16, 16).to(torch.uint8)
    with pytest.raises(FeatureError, match=SAYS):
        extractor(weights, "16", [1, 2])(images, ["a"])
    for precision, blocks in (("16", [0, 1]), ("bf16", [1, 2]), ("32", [1, 2])):
        maps = extractor(weights, precision, blocks)(images, ["a"])
        assert all(group.isfinite().all() for group in maps.groups.values())


def test_each_timestep_is_looked_at_once_and_also_after_a_forecast(weights: Path) -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    found = extractor(weights, "32", [1])
    found.without_cache()(images, ["forecast"])
    with torch.no_grad():
        found.backbone.get_parameter("unet.output_blocks.1.0.out_layers.3.bias").fill_(torch.nan)
    with pytest.raises(FeatureError, match=r"block 1 at t = 5 .* in 32 bits.*backbone\.checkpoint"):
        found(images, ["a"])


def given(tiny: tuple[str, ...], weights: Path) -> list[str]:
    """The overrides of a tiny program, with these weights in float16."""
    changes = (f"backbone.checkpoint={weights}", "backbone.precision='16'")
    same = (override for override in tiny if override != "backbone=random")
    unet = "backbone.unet.resblock_updown=false"
    return ["backbone=guided_diffusion_64", *same, unet, *changes]


def test_a_run_ends_before_it_trains(weights: Path, tmp_path: Path) -> None:
    cfg = composed(tmp_path / "run", *given(SEGMENT, weights))
    with pytest.raises(FeatureError, match=SAYS):
        train(cfg)
    assert not (tmp_path / "run" / "head.safetensors").exists()


def test_a_sweep_ends_before_a_cell(weights: Path, tmp_path: Path) -> None:
    cfg = composed(tmp_path / "sweep", *given(SWEEP, weights), root="sweep")
    with pytest.raises(FeatureError, match=SAYS):
        sweep(cfg)
    assert not list((tmp_path / "sweep").rglob("b*_t*.json"))
