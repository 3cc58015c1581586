"""Loads weights of timm's networks from a file or the hub, executing nothing."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ddpmseg.backbones.timm.models import build_network, check_name, library
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.keywords import HUB
from ddpmseg.weights.read import read_state_dict, resolve_checkpoint

NESTED = ("state_dict", "model", "teacher")
"""Entries of a network's state dict in files of training programs, in order of precedence."""
PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""Prefixes that training programs add to every name."""


def network_from_file(name: str, input_size: int, path: Path) -> Any:
    """Build the network `name` for images of `input_size` pixels with the weights of a file.

    The file has the library's format or a format of the network's authors that the library knows,
    or is one of a training program that contains such a state dict. Position embeddings of another
    size are resized, a classifier is ignored. Raises CheckpointError for a file of another network,
    or one that cannot be read.
    """
    state = _without_prefixes(read_state_dict(path, nested=NESTED))
    for layer in _classifiers(name):
        state = {key: value for key, value in state.items() if not key.startswith(f"{layer}.")}
    if not state:
        raise CheckpointError(f"checkpoint '{path}' holds no parameters.")
    try:
        return build_network(name, input_size, state)
    except Exception as error:
        # A conversion raises nearly any type of error for unknown names: KeyError, ...
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network '{name}':{_what_differs(error)}\n"
            "Set `backbone.name` to the network the file was made for."
        ) from error


def checkpoint_file(name: str, checkpoint: str) -> Path:
    """The weight file of `backbone.checkpoint`, fetched if it is the hub's.

    Raises CheckpointError if there is none.
    """
    return hub_file(name) if checkpoint == HUB else resolve_checkpoint(checkpoint)


def hub_file(name: str) -> Path:
    """The published weight file of `name`, from the cache of the hub's client, or fetched.

    Raises CheckpointError if none is published, or it can neither be found nor fetched;
    ConfigError for an unknown name.
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
        # Without a connection, the client and its libraries raise many types of errors.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"`backbone.checkpoint=hub`: '{file}' of '{repository}' is not in the hub's cache and "
            f"cannot be fetched ({reason}). On a machine with a connection, run "
            f"`hf download {repository} {file}`, bring the file here, and set "
            f"`backbone.checkpoint` to its path."
        ) from error


def _classifiers(name: str) -> tuple[str, ...]:
    """Names of the layers that compute class scores."""
    check_name(name)
    names = library().get_pretrained_cfg(name).classifier or ()
    return (names,) if isinstance(names, str) else tuple(names)


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
