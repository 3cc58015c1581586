"""Weights with a description in one file; reading it executes no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddpmseg.io.files import written_whole

UNREADABLE = (
    OSError,
    SafetensorError,
    AttributeError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors from reading a file of another kind and building what it describes."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, card: Mapping[str, Any]) -> None:
    """Write safetensors with `card`, plain JSON values, in the header. Floats become float32."""
    plain = {key: _plain(value) for key, value in tensors.items()}
    with written_whole(path) as unfinished:
        save_file(plain, unfinished, metadata={"ddpmseg": json.dumps(dict(card))})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the card that `save_tensors` wrote. Raises one of `UNREADABLE`."""
    with safe_open(path, framework="pt") as file:
        card = json.loads((file.metadata() or {})["ddpmseg"])
        return {key: file.get_tensor(key) for key in file.keys()}, card  # noqa: SIM118


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.float() if value.is_floating_point() else value
