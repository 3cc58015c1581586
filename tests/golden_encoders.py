"""Files of SwAV and MAE with reproducible weights, laid out as the original code writes them."""

import json
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from golden_fill import FOLDER, filled
from safetensors.torch import load_file
from torch import Tensor

from ddpmseg.backbones.encoder import MEAN, STD
from ddpmseg.backbones.swav.resnet import ResNet

FACTS = json.loads((FOLDER / "encoders.json").read_text())
LAYERS = [3, 4, 6, 3]


@cache
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "encoders.safetensors")


def golden_images() -> Tensor:
    """The two golden images in [-1, 1]; the original code was given them already normalised."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return (golden()["image"] * std + mean) * 2 - 1


def resnet_state(channels: int, layers: list[int], seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = ResNet(channels, layers).state_dict()
    counts = {key: torch.tensor(0) for key in shapes if key.endswith("num_batches_tracked")}
    return filled(shapes | counts, seed)


def mae_state() -> dict[str, Tensor]:
    """The whole masked autoencoder, decoder included; its positions are fixed, not drawn."""
    facts = FACTS["mae"]
    shapes = {key: torch.empty(shape, device="meta") for key, shape in facts["key_shapes"].items()}
    return filled(shapes, facts["fill_seed"]) | {"pos_embed": golden()["mae_pos_embed"]}


def save_swav(path: Path, state: Mapping[str, Tensor]) -> Path:
    """As SwAV's training does: from within DistributedDataParallel, with all it needs to go on."""
    network = {f"module.{key}": value for key, value in state.items()}
    network["module.projection_head.0.weight"] = torch.ones(2, 2)
    network["module.prototypes.weight"] = torch.ones(2, 2)
    optimiser = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 200, "state_dict": network, "optimizer": optimiser}, path)
    return path


def save_mae(path: Path, state: Mapping[str, Tensor]) -> Path:
    """As MAE's training does, its command line included."""
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {
        "model": dict(state),
        "optimizer": optimiser,
        "epoch": 199,
        "scaler": {"scale": 65536.0},
        "args": Namespace(batch_size=64, output_dir="./output", device="cuda", mask_ratio=0.75),
    }
    torch.save(content, path)
    return path
