"""Loads pretrained encoders from weight files that hold more than the encoder."""

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddpmseg.command_line import overrides
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.read import read_content, state_of
from ddpmseg.weights.shapes import Shapes, differences, listed, shapes_of
from ddpmseg.weights.wrappers import check_finite

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)

ENTRIES = (("state_dict",), ("model",), ("models", "discriminator_s"))
"""Entries that hold the network in files with optimiser and settings: those of SwAV, MAE, and ALAE
(whose encoder is its discriminator; `_s` is the running average of its two copies)."""
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
"""A parameter that only such a network has -> what it is, and the backbone that reads it."""
ExtraParameters = Callable[[Mapping[str, Any], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Maps the content of a file and its state dict to parameters that lie outside the state dict."""


@dataclass(frozen=True)
class EncoderFormat:
    """The format of one kind of encoder's weight files.

    Args:
        marker: its key in `KINDS`.
        dropped: prefixes of parameters that only training needs.
        settings: infers the network's settings from the shapes of its parameters; raises
            ValueError for another network.
        advice: returns a sentence about a mismatch between shapes and settings that `settings`
            cannot see; empty if there is none.
        extra: finds parameters outside the state dict; raises ValueError when they cannot be used.
    """

    marker: str
    dropped: tuple[str, ...]
    settings: Callable[[Shapes], dict[str, Any]]
    advice: Callable[[Shapes, Mapping[str, Any]], str] = lambda _shapes, _settings: ""
    extra: ExtraParameters | None = None

    def part_of(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The encoder's parameters, and the names and sizes of other parts: 'decoder_pred (2)'."""
        kept = {key: value for key, value in state.items() if not key.startswith(self.dropped)}
        others = Counter(self._dropped_part(key) for key in state if key not in kept)
        return kept, [f"{name} ({count})" for name, count in sorted(others.items())]

    def _dropped_part(self, key: str) -> str:
        """The module of a dropped parameter, as far as `dropped` names it."""
        prefix = next(prefix for prefix in self.dropped if key.startswith(prefix))
        if prefix.endswith("."):
            return prefix[:-1]
        return prefix + key.removeprefix(prefix).partition(".")[0]


class _Losses:
    """Replaces the object that holds the losses of a training run; does nothing."""


INERT = (Namespace, (_Losses, "tracker.RunningMean"), (_Losses, "tracker.RunningMeanTorch"))
"""Objects besides tensors that a file may hold: the command line of MAE, the losses of ALAE."""


def read_pretrained(path: Path, extra: ExtraParameters | None = None) -> dict[str, Tensor]:
    """Read a network's parameters: one of `ENTRIES`, with those of `extra`, or the whole file.

    Nothing in the file is executed; besides tensors it may hold the objects of `INERT`. Values stay
    on disk until they are used, so that the optimiser's, two or three times the network's, are
    never read. Raises CheckpointError as `read_state_dict`.
    """
    content = read_content(path, mapped=True, inert=INERT)
    states = (_within(content, names) for names in ENTRIES)
    entry = next((state for state in states if state is not None), None)
    state = state_of(content if entry is None else entry, path)
    if entry is None or extra is None or not isinstance(content, Mapping):
        return state
    try:
        return state | dict(extra(content, state))
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be used: {error}.") from error


def _within(content: object, names: Sequence[str]) -> object | None:
    """The mapping at this path of names; None if there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else None


def load_encoder(
    build: Callable[[], Network],
    path: Path,
    file_format: EncoderFormat,
    settings: Mapping[str, Any],
) -> Network:
    """Build the network with `build`, in fp32, and load all its parameters from the file.

    Other parts of the file are logged. Raises CheckpointError for a file that does not fit; the
    message lists the differences and advises another backbone, or changes to `settings`.
    """
    state, others = file_format.part_of(read_pretrained(path, file_format.extra))
    with torch.device("meta"):  # drawing initial values, which are not needed, takes seconds
        network = build()
    actual, expected = shapes_of(state), shapes_of(network.state_dict())
    if problems := differences(actual, expected):
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network built from `backbone` "
            f"({len(problems)} of {len(expected)} parameters differ):{listed(problems)}\n"
            f"{_advice(actual, file_format, settings)}"
        )
    check_finite(state, path)
    network.to_empty(device="cpu").load_state_dict(state)
    if others:
        log.info("'%s': left out what only its training needs: %s", path, ", ".join(others))
    return network


def _advice(shapes: Shapes, file_format: EncoderFormat, settings: Mapping[str, Any]) -> str:
    """What to do about a file with these shapes, which does not fit."""
    kind = next((kind for marker, kind in KINDS.items() if marker in shapes), None)
    if kind is None:
        names = ", ".join(list(shapes)[:3]) or "nothing"
        return f"Its parameters are those of no network that is known here (it has {names})."
    if kind != KINDS[file_format.marker]:
        return f"It is {kind[0]}: use it with `{kind[1]}`."
    try:
        inferred = file_format.settings(shapes)
    except ValueError as error:
        return f"Parameters are missing from the file ({error}). Fetch it again."
    changes = {f"backbone.{key}": v for key, v in inferred.items() if v != settings[key]}
    fitting = f"The file fits with `{overrides(changes)}`." if changes else ""
    sentences = [file_format.advice(shapes, settings), fitting]
    if not any(sentences):
        return "Parameters are missing from the file, or it holds others besides. Fetch it again."
    return " ".join(filter(None, sentences))
