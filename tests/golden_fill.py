"""Networks with reproducible weights, and what the original code computed with them."""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.maps import NativeMaps

FOLDER = Path(__file__).parent / "golden"
FACTS = json.loads((FOLDER / "pipeline.json").read_text())


@cache
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "pipeline.safetensors")


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected magnitude."""
    assert value.shape == expected.shape
    return ((value.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def filled(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """`state` with new values: one CPU generator, keys in sorted order, a normal draw for each.

    With z from N(0, 1): running variances 1 + 0.1 |z|, running means 0.1 z, tensors of two or more
    axes z / sqrt(fan in), other weights 1 + 0.1 z, the rest 0.05 z. Integers are kept, no draw.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(key: str, old: Tensor) -> Tensor:
        if not old.is_floating_point():
            return old
        z = torch.randn(old.shape, generator=generator)
        name = key.rpartition(".")[2]
        if name == "running_var":
            return z.abs() * 0.1 + 1
        if name == "running_mean":
            return z * 0.1
        if old.ndim > 1:
            return z / (old.numel() // len(old)) ** 0.5
        return z * 0.1 + 1 if name.endswith("weight") else z * 0.05

    return {key: draw(key, state[key]) for key in sorted(state)}


def filled_backbone(
    flags: UNetFlags, seed: int = 1234, precision: str = "32", compile: bool = False
) -> GuidedDiffusionBackbone:
    """Initial weights are no test: the last layer of every residual branch starts as zero."""
    backbone = GuidedDiffusionBackbone("filled", flags, "random", precision, compile=compile)
    backbone.unet.load_state_dict(filled(backbone.unet.state_dict(), seed))
    return backbone


@cache
def golden_backbone(precision: str = "32") -> GuidedDiffusionBackbone:
    known = {field.name for field in fields(UNetFlags)}
    flags = UNetFlags(**{k: v for k, v in FACTS["unet_flags"].items() if k in known})
    return filled_backbone(flags, FACTS["unet_fill_seed"], precision)


@cache
def golden_maps(hook: Hook) -> NativeMaps:
    """Native maps of the two golden images, all blocks and timesteps."""
    extractor = FeatureExtractor(
        golden_backbone(),
        FACTS["blocks"],
        FACTS["timesteps"],
        image_size=64,
        hook=hook,
        noise="shared",
        seed=FACTS["noise_seed"],
    )
    # Undoes the extractor's own scaling: these pixels lie between whole numbers.
    pixels = (golden()["image"] + 1) * 127.5
    return extractor.extract_all([(pixels, ["a", "b"])], len(pixels))
