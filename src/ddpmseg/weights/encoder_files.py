"""Weight files of pretrained encoders: the encoder's part of them, held against the network."""

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddpmseg.errors import CheckpointError
from ddpmseg.weights.read import read_content, state_of
from ddpmseg.weights.shapes import Shapes, differences, listed, shapes_of

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)

ENTRIES = (("state_dict",), ("model",), ("models", "discriminator_s"))
"""Under which a training run keeps its network, beside its optimiser and its settings: SwAV, MAE,
and ALAE, whose encoder is its discriminator, too (of its two copies, the running average)."""
KINDS = {
    "layer1.0.conv1.weight": ("a ResNet", "backbone=swav or backbone=swav_w2"),
    "blocks.0.attn.qkv.weight": ("a vision transformer", "backbone=mae"),
    "encoder.enc_blocks.0.c1.weight": ("a very deep VAE", "backbone=vdvae"),
    "encode_block.0.conv_1.weight": ("the encoder of an ALAE", "backbone=alae"),
    "encoder.input_layer.0.weight": (
        "an encoder of e4e with its generator",
        "backbone=gan_inversion or backbone=gan_encoder",
    ),
    "input_blocks.0.0.weight": ("a UNet of guided_diffusion", "backbone=guided_diffusion_256"),
}
"""By a parameter that only such a network has: what it is, and the backbone that reads it."""
Beside = Callable[[Mapping[str, Any], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""From all a file holds, and the network's parameters in it, to parameters that it keeps beside."""


@dataclass(frozen=True)
class Encoder:
    """What tells the files of one kind of encoder.

    marker: its key in `KINDS`. dropped: prefixes of parameters that served its training only.
    settings: read off the shapes of its parameters; ValueError where it is no such network.
    otherwise: from the shapes and the settings of a network they do not fit, a sentence about what
    `settings` cannot tell; empty where there is nothing to say.
    beside: what its files keep outside their state dict; ValueError where they are of no use.
    """

    marker: str
    dropped: tuple[str, ...]
    settings: Callable[[Shapes], dict[str, Any]]
    otherwise: Callable[[Shapes, Mapping[str, Any]], str] = lambda _shapes, _settings: ""
    beside: Beside | None = None

    def part_of(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The encoder's parameters, and a word for each of the others, as 'decoder_pred (2)'."""
        kept = {key: value for key, value in state.items() if not key.startswith(self.dropped)}
        others = Counter(self._dropped_part(key) for key in state if key not in kept)
        return kept, [f"{name} ({count})" for name, count in sorted(others.items())]

    def _dropped_part(self, key: str) -> str:
        """The module that a dropped parameter is of, as far as `dropped` tells."""
        prefix = next(prefix for prefix in self.dropped if key.startswith(prefix))
        if prefix.endswith("."):
            return prefix[:-1]
        return prefix + key.removeprefix(prefix).partition(".")[0]


class _Losses:
    """Takes the values of an object that a training run kept its losses in, and does nothing."""


INERT = (Namespace, (_Losses, "tracker.RunningMean"), (_Losses, "tracker.RunningMeanTorch"))
"""What a file may hold besides tensors: the command line of MAE and the losses of ALAE."""


def read_pretrained(path: Path, beside: Beside | None = None) -> dict[str, Tensor]:
    """The network's parameters in a file: under one of `ENTRIES`, or all there is.

    Those that a file with such an entry keeps outside it are added by `beside`.

    Nothing is executed and nothing but tensors leaves the file; of other objects it may hold those
    of `INERT`. Values stay on disk until they are looked at: the optimiser's, two or three times
    the network's, never are. Raises CheckpointError as `read_state_dict`.
    """
    content = read_content(path, mapped=True, inert=INERT)
    found = (_within(content, names) for names in ENTRIES)
    entry = next((state for state in found if state is not None), None)
    state = state_of(content if entry is None else entry, path)
    if entry is None or beside is None or not isinstance(content, Mapping):
        return state
    try:
        return state | dict(beside(content, state))
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be used: {error}.") from error


def _within(content: object, names: Sequence[str]) -> object | None:
    """The mapping under these names, each within the one before; None where there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else None


def load_encoder(
    build: Callable[[], Network], path: Path, encoder: Encoder, settings: Mapping[str, Any]
) -> Network:
    """The network that `build` makes, in fp32, with every parameter from the file.

    What the file has besides is listed in the log. Raises CheckpointError listing what differs and
    the way out: another backbone, or which of `settings` to change.
    """
    state, others = encoder.part_of(read_pretrained(path, encoder.beside))
    with torch.device("meta"):  # initial values, which take seconds to draw, are not needed
        network = build()
    given, wanted = shapes_of(state), shapes_of(network.state_dict())
    if problems := differences(given, wanted):
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network built from `backbone` "
            f"({len(problems)} of {len(wanted)} parameters differ):{listed(problems)}\n"
            f"{_way_out(given, encoder, settings)}"
        )
    network.to_empty(device="cpu").load_state_dict(state)
    if others:
        log.info("'%s': left out what only its training needs: %s", path, ", ".join(others))
    return network


def _way_out(given: Shapes, encoder: Encoder, settings: Mapping[str, Any]) -> str:
    kind = next((kind for marker, kind in KINDS.items() if marker in given), None)
    if kind is None:
        names = ", ".join(list(given)[:3]) or "nothing"
        return f"It is none of the networks that can be told by their parameters (it has {names})."
    if kind != KINDS[encoder.marker]:
        return f"It is {kind[0]}: use it with `{kind[1]}`."
    try:
        theirs = encoder.settings(given)
    except ValueError as error:
        return f"Parameters are missing from the file ({error}). Fetch it again."
    changes = [
        f"backbone.{key}={str(value).replace(' ', '')}"
        for key, value in theirs.items()
        if value != settings[key]
    ]
    fitting = f"The file fits with `{' '.join(changes)}`." if changes else ""
    sentences = [encoder.otherwise(given, settings), fitting]
    if not any(sentences):
        return "Parameters are missing from the file, or it holds others besides. Fetch it again."
    return " ".join(filter(None, sentences))
