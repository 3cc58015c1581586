"""Finds weight files and reads them as tensors without executing anything."""

import pickle
import re
import zipfile
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpmseg.command_line import command
from ddpmseg.errors import CheckpointError
from ddpmseg.limits import no_path
from ddpmseg.weights.keywords import BUNDLED
from ddpmseg.weights.wrappers import check_finite, is_state, keys_of, no_state, without_prefixes

LONGEST_HEADER = 100_000_000
"""Bytes of a header that safetensors reads."""
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def resolve_checkpoint(checkpoint: str) -> Path:
    """Path of a weight file; 'bundled:NAME' is a file that ships with the package.

    Raises CheckpointError when the file does not exist.
    """
    if problem := no_path(checkpoint):
        raise CheckpointError(f"checkpoint '{checkpoint[:60]}...': {problem}.")
    if checkpoint.startswith(BUNDLED):
        folder = Path(str(files("ddpmseg") / "weights" / "bundled"))
        path = folder / f"{checkpoint.removeprefix(BUNDLED)}.safetensors"
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
            raise CheckpointError(
                f"`backbone.checkpoint={checkpoint}`: no such bundled weights (there are: {names})."
            )
        return path
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        raise CheckpointError(
            f"checkpoint '{path}' is a folder. Set `backbone.checkpoint` to the weight file itself."
        )
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint '{path}' does not exist. Set `backbone.checkpoint` to a .pt or "
            ".safetensors file, or to 'random' for an untrained network."
        )
    return path


def read_state_dict(
    path: Path, entry: str | None = None, mapped: bool = False, nested: Collection[str] = ()
) -> dict[str, Tensor]:
    """Read a state dict from safetensors or a torch file, on the CPU, in the stored dtypes.

    The content decides which of the two it is, whatever the file is called. Nothing in it is
    executed (`weights_only`). The prefixes of DataParallel and torch.compile are removed.

    Args:
        path: the file.
        entry: key of the state dict in the file; None: the file is one.
        mapped: leave values on disk until they are used, without comparing checksums: enough for
            names and shapes.
        nested: keys under which the state dict may lie, one within the other.

    Raises CheckpointError when the file is damaged, would execute code, lacks the entry, holds
    something other than tensors by name or, unless `mapped`, numbers that are not finite.
    """
    state = state_of(read_content(path, mapped), path, entry, nested)
    if not mapped:
        check_finite(state, path)
    return state


def read_content(
    path: Path, mapped: bool = False, inert: Sequence[type | tuple[type, str]] = ()
) -> object:
    """Read everything in a weight file. Its only classes are torch's and the `inert` ones.

    inert: classes that execute nothing; (class, 'module.name') substitutes the class for the one
        of that name in the file.

    Raises CheckpointError as `read_state_dict`.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if re.match(rb"\s*<[!?a-zA-Z]", start):
        raise CheckpointError(
            f"checkpoint '{path}' is a web page, not a weight file: it begins with "
            f"{start.strip()[:20].decode(errors='replace')!r}. Fetch the file behind that page."
        )
    try:
        if _is_safetensors(path, start):
            return load_file(path)  # which maps the file: values are read when they are used
        # The format of torch before 1.6 is no archive and cannot be mapped, and torch itself goes
        # by the name where it is given a path.
        misnamed = path.suffix == ".safetensors"
        mmap = mapped and zipfile.is_zipfile(path) and not misnamed
        with path.open("rb") as file, torch.serialization.safe_globals(list(inert)):
            source = file if misnamed else path
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint '{path}' is not a plain state dict: reading it would execute code stored "
            f"in it, or it is damaged. It was not loaded ({_refused(error)}). Ask its author "
            "for a file of tensors only, or extract its tensors, executing nothing, with "
            f"`{command('weights', 'convert', path, 'NAME.safetensors')}`."
        ) from error
    except Exception as error:
        # The readers raise nearly any type of error for damage: IndexError, KeyError, ...
        raise CheckpointError(
            f"checkpoint '{path}' ({path.stat().st_size} bytes) cannot be read; it is truncated or "
            f"no weight file ({_first_line(error)}). Fetch it again."
        ) from error


def state_of(
    content: object, path: Path, entry: str | None = None, nested: Collection[str] = ()
) -> dict[str, Tensor]:
    """Find the state dict in the `content` of the file at `path`, see `read_state_dict`."""
    state = content
    if entry is not None:
        if not isinstance(state, dict) or entry not in state:
            raise CheckpointError(
                f"checkpoint '{path}' must hold its tensors as '{entry}'; it holds "
                f"{keys_of(state)}."
            )
        state = state[entry]
    while isinstance(state, dict) and (
        inner := next((name for name in nested if isinstance(state.get(name), dict)), None)
    ):
        state = state[inner]
    if not isinstance(state, dict) or not is_state(state):
        raise no_state(state, path)
    return without_prefixes(state)


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Whether a file is one by its content; by its name where the content is of no known kind."""
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header <= LONGEST_HEADER:
        return True
    is_torch = start.startswith(b"PK") or re.match(b"\x80[\x02-\x05]", start)
    return path.suffix == ".safetensors" and not is_torch


def _refused(error: pickle.UnpicklingError) -> str:
    """What a pickle named that is not read, without torch's advice to trust it."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {named[1]}" if named else "it is no pickle of tensors"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
