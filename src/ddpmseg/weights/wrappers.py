"""What training programs put around a network's parameters: prefixes, and entries beside them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmseg.command_line import command
from ddpmseg.errors import CheckpointError

COMPILED = "_orig_mod."
"""torch.compile puts it before the names of all modules below the one that was compiled."""
PARALLEL = "module."
"""DataParallel, DistributedDataParallel and AveragedModel put it before all names."""
COUNTER = "n_averaged"
"""AveragedModel counts in it; it is the only name without the prefix."""
AVERAGED = re.compile(r"ema|average|swa", re.IGNORECASE)
"""In names of entries that hold running averages of the parameters."""


def is_state(content: object) -> bool:
    """Whether `content` maps names to tensors."""
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by the names that the network itself gives them.

    `module.` goes where all names have it, `_orig_mod.` wherever it is, in any nesting. A state in
    which two names would become one stays as it is.
    """
    names = {key: re.sub(rf"(^|\.){re.escape(COMPILED)}", r"\1", key) for key in state}
    if COUNTER in names and all(n.startswith(PARALLEL) for n in names.values() if n != COUNTER):
        del names[COUNTER]
    while names and all(name.startswith(PARALLEL) for name in names.values()):
        names = {key: name.removeprefix(PARALLEL) for key, name in names.items()}
    if len(set(names.values())) < len(names):
        return state
    return {name: state[key] for key, name in names.items()}


def no_state(content: object, path: Path) -> CheckpointError:
    """The error for the content of a file that is no state dict: names what can be taken out."""
    entries = _states(content)
    if not entries:
        return CheckpointError(
            f"checkpoint '{path}' must map parameter names to tensors; it holds {keys_of(content)}."
        )
    averaged = [name for name in entries if AVERAGED.search(name)]
    chosen = (averaged or entries)[0]
    advice = ""
    if len(entries) > 1:
        advice = (
            f" '{chosen}' seems to be the running average of the training, which samples and "
            "features are usually made with."
            if averaged
            else f" Choose among {', '.join(entries)}."
        )
    convert = command("weights", "convert", path, "NAME.safetensors", "--entry", chosen)
    return CheckpointError(
        f"checkpoint '{path}' must map parameter names to tensors; it is the file of a training "
        f"program, with {keys_of(content)}, of which {', '.join(map(repr, entries))} "
        f"{'do' if len(entries) > 1 else 'does'}. Take it out with `{convert}`.{advice}"
    )


def keys_of(content: object) -> object:
    """Keys of a dictionary, or else the name of the type."""
    return sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError where a parameter is not a finite number."""
    bad = [name for name, value in state.items() if not _is_finite(value)]
    if bad:
        raise CheckpointError(
            f"checkpoint '{path}' holds NaN or infinite numbers in {len(bad)} of {len(state)} "
            f"parameters, the first of them '{bad[0]}'. The training that wrote it has diverged, "
            "or the file is damaged. Take an earlier checkpoint, or fetch it again."
        )


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    # The sum is finite only where all are, and reads them once; it may also overflow.
    total = value.sum(dtype=torch.float64 if value.dtype == torch.float64 else torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())


def _states(content: object, above: str = "") -> list[str]:
    """Names of the entries that are state dicts, those in an entry by 'outer.inner'."""
    if not isinstance(content, Mapping):
        return []
    found: list[str] = []
    inner: list[tuple[str, Any]] = [(k, v) for k, v in content.items() if isinstance(k, str)]
    for key, value in inner:
        if isinstance(value, Mapping) and value and is_state(value):
            found.append(f"{above}{key}")
        elif not above:
            found += _states(value, f"{key}.")
    return found
