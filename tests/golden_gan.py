"""e4e and StyleGAN2 with reproducible weights; files of e4e as the original code writes them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from golden_fill import FOLDER, filled
from safetensors.torch import load_file
from torch import Tensor

from ddpmseg.backbones.gan.e4e import E4E
from ddpmseg.backbones.gan.stylegan2 import Generator

FACTS = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in ("e4e", "stylegan2")}
TINY = {"size": 16, "channels": 16, "input_size": 32}
"""14 encoder widths of 2 to 16, a generator of 8 x 8 and 16 x 16 pixels above the first."""
OPTIONS = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True, "stylegan_size": 16}
ADA_NAMES = {
    ".weight": ".conv.weight",
    ".affine.weight": ".conv.modulation.weight",
    ".affine.bias": ".conv.modulation.bias",
    ".bias": ".activate.bias",
    ".noise_strength": ".noise.weight",
}
"""Endings of a layer's parameters in stylegan2-ada-pytorch, and those of ours."""


@cache
def golden(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def filled_as(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` filled by its seed, then brought to the sizes that its network wants."""
    drawn = filled(state, facts["fill_seed"])
    for rule in facts["after_fill"]:
        for key in rule["keys"]:
            drawn[key] = drawn[key] * rule.get("multiply", 1) + rule.get("add", 0)
    for key, total in facts["weight_sum_after_fill"].items():
        if key in drawn:
            assert abs(drawn[key].double().sum() - total) <= 1e-5 * drawn[key].numel() ** 0.5
    return drawn


@cache
def golden_e4e() -> E4E:
    """The network of the golden values, folded: at full width, with a generator of 32 pixels."""
    with torch.device("meta"):
        network = E4E(32, 512)
    state: dict[str, Tensor] = {"latent_avg": golden("e4e")["latent_avg"]}
    for part in ("encoder", "decoder"):
        shapes = network.get_submodule(part).state_dict()
        # Neither the constant noise nor the filter is filled.
        kept = {key: golden("e4e")[f"noise/{key}"] for key in shapes if key.startswith("noises.")}
        for key in shapes:
            if key.endswith("num_batches_tracked"):
                shapes[key] = torch.tensor(0)
            elif key.endswith("blur.kernel"):
                taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
                kept[key] = taps[:, None] * taps / 16
        drawn = filled_as(
            FACTS["e4e"][part], {k: value for k, value in shapes.items() if k not in kept}
        )
        state |= {f"{part}.{key}": value for key, value in (drawn | kept).items()}
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval().fold_constants(torch.float32)
    return network


def golden_generator() -> Generator:
    """The generator of stylegan2-ada-pytorch under our names, folded."""
    facts, state = FACTS["stylegan2"], {}
    shapes = {key: torch.empty(shape) for key, shape in facts["key_shapes"].items()}
    theirs = filled_as(facts, shapes) | {
        key.removeprefix("noise/"): value
        for key, value in golden("stylegan2").items()
        if key.startswith("noise/")
    }
    generator = Generator(facts["widths"], facts["code_dim"])
    layers = ["conv1", *(f"convs.{index}" for index in range(len(generator.convs)))]
    names = ["b4.conv1", *(f"b{8 << i}.conv{j}" for i in range(3) for j in range(2))]
    for index, (ours, layer) in enumerate(zip(layers, names, strict=True)):
        for ending, our_ending in ADA_NAMES.items():
            state[ours + our_ending] = theirs[f"synthesis.{layer}{ending}"]
        state[f"noises.noise_{index}"] = theirs[f"synthesis.{layer}.noise_const"]
    state["input.input"] = theirs["synthesis.b4.const"]
    wanted = generator.state_dict()
    filters = {key: value for key, value in wanted.items() if key.endswith("blur.kernel")}
    shaped = {key: value.view(wanted[key].shape) for key, value in state.items()}
    generator.load_state_dict(shaped | filters)
    generator.requires_grad_(False).eval().fold_constants(torch.float32)
    return generator


def tiny_state(size: int = 16, channels: int = 16) -> dict[str, Tensor]:
    """All that a file of a tiny e4e holds in its state dict."""
    network = E4E(size, channels)
    state = filled(network.state_dict(), 7)
    del state["latent_avg"]
    # A style is near 1, as its bias is; the weights of the last linear layers are scaled in a pass.
    for key, value in state.items():
        if key.endswith("modulation.bias"):
            state[key] = value + 1
        elif key.endswith(("modulation.weight", "linear.weight")):
            state[key] = value * channels**0.5
    return state | {
        "decoder.style.1.weight": torch.ones(2, 2),
        "decoder.to_rgb1.bias": torch.ones(1, 3, 1, 1),
        "decoder.to_rgbs.0.conv.weight": torch.ones(1, 3, 2, 1, 1),
    }


def save_e4e(path: Path, state: Mapping[str, Tensor], **changes: Any) -> Path:
    """As e4e's training does; a change of None takes an entry away."""
    heads = [value for key, value in state.items() if key.endswith("linear.bias")]
    average = torch.linspace(-1, 1, len(heads) * len(heads[0])).view(len(heads), -1)
    content = {"state_dict": dict(state), "opts": OPTIONS, "latent_avg": average, **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path
