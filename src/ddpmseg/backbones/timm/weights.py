"""Weights of timm's networks: from a file or from the hub, never by executing anything."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ddpmseg.backbones.timm.models import build_network, check_name, library
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.read import read_state_dict, resolve_checkpoint
from ddpmseg.weights.words import HUB

NESTED = ("state_dict", "model", "teacher")
"""Entries under which training programs keep a network's state dict; the first one found counts."""
PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""What they leave at the beginning of every name."""


def network_from_file(name: str, input_size: int, path: Path) -> Any:
    """The network `name` for images of `input_size` pixels with the weights of a file.

    Read are the library's own files and those formats of the networks' authors that it knows, also
    within what training programs wrap around them. Position embeddings made for another size are
    resized, a classifier is left out. Raises CheckpointError for a file of another network, or one
    that cannot be read.
    """
    state = _without_prefixes(read_state_dict(path, nested=NESTED))
    for layer in _classifiers(name):
        state = {key: value for key, value in state.items() if not key.startswith(f"{layer}.")}
    if not state:
        raise CheckpointError(f"checkpoint '{path}' holds no parameters.")
    try:
        return build_network(name, input_size, state)
    except Exception as error:
        # A conversion meets foreign names with nearly any type of error: KeyError, ...
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network '{name}':{_what_differs(error)}\n"
            "Set `backbone.name` to the network the file was made for."
        ) from error


def checkpoint_file(name: str, checkpoint: str) -> Path:
    """The weight file that `backbone.checkpoint` means, fetched where it is the hub's.

    Raises CheckpointError where there is none.
    """
    return hub_file(name) if checkpoint == HUB else resolve_checkpoint(checkpoint)


def hub_file(name: str) -> Path:
    """The published weight file of `name`: from the cache of the hub's client, or fetched.

    Raises CheckpointError where none is published, or it can be had neither way; ConfigError for
    an unknown name.
    """
    from huggingface_hub import hf_hub_download

    check_name(name)
    config = library().get_pretrained_cfg(name)
    if not config.hf_hub_id:
        raise CheckpointError(
            f"`backbone.checkpoint=hub`: no weights of '{name}' are published there. Give a file, "
            "or 'random'."
        )
    repository = config.hf_hub_id.removesuffix("/")
    file = config.hf_hub_filename or "model.safetensors"
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        # The client and what it calls raise many types where there is no connection.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"`backbone.checkpoint=hub`: '{file}' of '{repository}' is not in the hub's cache and "
            f"cannot be fetched ({reason}). Where there is a connection, run "
            f"`hf download {repository} {file}`, bring the file here, and set "
            f"`backbone.checkpoint` to its path."
        ) from error


def _classifiers(name: str) -> tuple[str, ...]:
    """Names of the layers that give the scores of classes."""
    check_name(name)
    given = library().get_pretrained_cfg(name).classifier or ()
    return (given,) if isinstance(given, str) else tuple(given)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _what_differs(error: Exception) -> str:
    """The first of torch's lines about missing, unexpected and differing parameters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = [line if len(line) <= 200 else f"{line[:200]} ..." for line in lines[1:7] or lines[:1]]
    more = [f"... and {len(lines) - 7} more"] if len(lines) > 7 else []
    return "".join(f"\n  {line}" for line in [*shown, *more] or [type(error).__name__])
