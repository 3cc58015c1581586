"""Weight files: found, hashed, read without executing anything, and held against the network."""

import pickle
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpmseg.errors import CheckpointError

BUNDLED = "bundled:"


def resolve_checkpoint(checkpoint: str) -> Path:
    """Path of a weight file; 'bundled:NAME' means one that ships with the package.

    Raises CheckpointError when there is no such file.
    """
    if checkpoint.startswith(BUNDLED):
        folder = Path(str(files("ddpmseg") / "weights"))
        path = folder / f"{checkpoint.removeprefix(BUNDLED)}.safetensors"
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
            raise CheckpointError(
                f"`backbone.checkpoint={checkpoint}`: no such bundled weights (there are: {names})."
            )
        return path
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint '{path}' does not exist. Set `backbone.checkpoint` to a .pt or "
            ".safetensors file, or to 'random' for an untrained network."
        )
    return path


def read_state_dict(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from safetensors or a torch file, on the CPU, in the stored dtypes.

    It is all the file holds, or its `entry` of that name. Nothing in the file is executed
    (`weights_only`). A prefix 'module.' shared by all keys, left by DataParallel, is removed.
    Raises CheckpointError when the file is damaged, wants to execute code, lacks the entry or holds
    something other than tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint '{path}' is not a plain state dict: reading it would execute code stored "
            f"in it, or it is damaged. It was not loaded ({_first_line(error)}). Ask its author "
            "for a file of tensors only, or save `model.state_dict()` as .safetensors yourself."
        ) from error
    except Exception as error:
        # The readers meet damage with nearly any type of error: IndexError, KeyError, ...
        raise CheckpointError(
            f"checkpoint '{path}' ({path.stat().st_size} bytes) cannot be read; it is truncated or "
            f"no weight file ({_first_line(error)}). Fetch it again."
        ) from error
    if entry is not None:
        if not isinstance(state, dict) or entry not in state:
            raise CheckpointError(
                f"checkpoint '{path}' must hold its tensors as '{entry}'; it holds {_held(state)}."
            )
        state = state[entry]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(
            f"checkpoint '{path}' must map parameter names to tensors; it holds {_held(state)}."
        )
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def load_weights(network: nn.Module, path: Path, flags_key: str) -> None:
    """Load the file into `network`, every key and every shape, converted to the network's dtypes.

    Raises CheckpointError listing what differs; `flags_key` names the setting to change.
    """
    given, wanted = read_state_dict(path), network.state_dict()
    problems = [f"missing {key} {list(wanted[key].shape)}" for key in wanted if key not in given]
    problems += [f"unknown {key} {list(given[key].shape)}" for key in given if key not in wanted]
    problems += [
        f"{key} is {list(given[key].shape)} in the file, {list(wanted[key].shape)} in the network"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if problems:
        shown = "\n  ".join(problems[:8])
        more = f"\n  ... and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network built from `{flags_key}` "
            f"({len(problems)} of {len(wanted)} parameters differ):\n  {shown}{more}\n"
            f"Set `{flags_key}` to the flags the checkpoint was trained with."
        )
    network.load_state_dict(given)


def _held(content: object) -> object:
    return sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
