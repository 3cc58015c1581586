"""Files of the very deep VAE with reproducible weights, as the original code writes them."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from golden_fill import FOLDER, filled
from safetensors.torch import load_file
from torch import Tensor

from ddpmseg.backbones.vdvae.backbone import VdvaeBackbone
from ddpmseg.backbones.vdvae.layout import read_layout
from ddpmseg.backbones.vdvae.network import VeryDeepVAE

FACTS = json.loads((FOLDER / "vdvae.json").read_text())
TINY: dict[str, Any] = {
    "enc_blocks": ["16x1", "16d2", "8x2", "8d4", "2d2"],
    "dec_blocks": ["1x1", "2m1", "8m2", "8x1", "16m8"],
    "width": 8, "bottleneck_multiple": 0.5, "zdim": 2, "no_bias_above": 8,
    "pixel_mean": 112.8666757481, "pixel_std": 69.84780273,
}  # fmt: skip
"""Six encoder blocks, 0 to 5, and five decoder blocks, 6 to 10, for images of 16 pixels."""


@cache
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "vdvae.safetensors")


def golden_images() -> Tensor:
    """The two golden images, bytes with channels last, as (2, 3, 32, 32) in [-1, 1]."""
    return golden()["x"].permute(0, 3, 1, 2).float() / 127.5 - 1


def golden_backbone(path: Path, precision: str = "32") -> VdvaeBackbone:
    return VdvaeBackbone("golden", checkpoint=str(path), precision=precision, **FACTS["settings"])


def tiny_vdvae(checkpoint: Path | str = "random", **changes: Any) -> VdvaeBackbone:
    return VdvaeBackbone("vdvae", checkpoint=str(checkpoint), **(TINY | changes))


def empty_state(settings: Mapping[str, Any], mixtures: int = 10) -> dict[str, Tensor]:
    """All names and shapes of a file, without values; the likelihood's layer included."""
    layout = read_layout(settings["enc_blocks"], settings["dec_blocks"])
    width = settings["width"]
    middle = int(width * settings["bottleneck_multiple"])
    with torch.device("meta"):
        network = VeryDeepVAE(layout, width, middle, settings["zdim"], settings["no_bias_above"])
        likelihood = {
            "decoder.out_net.out_conv.weight": torch.empty(10 * mixtures, width, 1, 1),
            "decoder.out_net.out_conv.bias": torch.empty(10 * mixtures),
        }
    return network.state_dict() | likelihood


@cache
def golden_state() -> dict[str, Tensor]:
    """Scaled after filling, so that the image and not the biases decides the maps."""
    state = filled(empty_state(FACTS["settings"]), FACTS["fill_seed"])
    for key, value in state.items():
        if re.search(r"\.c[123]\.weight$", key):
            value *= 1.375
        elif re.search(r"(enc_blocks\.\d+|resnet)\.c4\.weight$", key):
            value *= 0.5
    state["decoder.gain"] += 1
    return state


def tiny_state(**changes: Any) -> dict[str, Tensor]:
    return filled(empty_state(TINY | changes), seed=1)


def save_vdvae(path: Path, state: Mapping[str, Tensor]) -> Path:
    """As a training with several processes does: the bare state dict of its wrapper."""
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    return path
