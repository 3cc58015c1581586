"""The encoder of ALAE with reproducible weights, in a file as the original code writes it."""

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from golden_fill import FOLDER, filled
from safetensors.torch import load_file
from torch import Tensor

from ddpmseg.backbones.alae.style_encoder import StyleEncoder

FACTS = json.loads((FOLDER / "alae.json").read_text())
SETTINGS = {
    "levels": FACTS["config"]["layer_count"],
    "channels": FACTS["config"]["startf"],
    "max_channels": FACTS["config"]["maxf"],
    "latent_size": FACTS["config"]["latent_size"],
}


@cache
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "alae.safetensors")


def alae_state(settings: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """All but the blur is drawn: every channel of it smooths by the same weights."""
    state = StyleEncoder(**settings).state_dict()
    blurs = {key: value for key, value in state.items() if key.endswith("blur.weight")}
    drawn = {key: value for key, value in state.items() if key not in blurs}
    return filled(drawn, seed) | blurs


def save_alae(path: Path, state: Mapping[str, Tensor], legacy: bool = False) -> Path:
    """As the original's training does: six networks, the optimisers, and its own losses' objects.

    legacy: in the format that torch wrote before 1.6, of which time the published files are.
    """
    others = {name: {"weight": torch.ones(2)} for name in ("generator_s", "mapping_fl_s")}
    raw = {key: torch.zeros_like(value) for key, value in state.items()}
    optimiser = {"state": {0: {"exp_avg_sq": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    tracker = ModuleType("tracker")
    losses = [
        type(name, (), {"__module__": "tracker"}) for name in ("RunningMean", "RunningMeanTorch")
    ]
    for kind in losses:
        setattr(tracker, kind.__name__, kind)
    mean, means = (kind() for kind in losses)
    vars(mean).update(_mean=0.5, n=2)
    vars(means).update(values=[torch.ones(1)])
    content = {
        "models": {
            "discriminator": raw,
            "discriminator_s": OrderedDict(state),
            **others,
            "dlatent_avg": {"buff": torch.zeros(12, 24)},
        },
        "auxiliary": {
            "encoder_optimizer": optimiser,
            "scheduler": {"last_epoch": 3},
            "tracker": {"tracks": OrderedDict(loss_d=means, lae=mean), "epochs": [0.5]},
        },
    }
    sys.modules["tracker"] = tracker
    try:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    finally:
        del sys.modules["tracker"]
    return path
