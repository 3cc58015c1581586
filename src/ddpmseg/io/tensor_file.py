"""Tensors and arrays as files; reading them executes no code.

Libraries that write to a path themselves report a full disk in ways of their own, and give files
modes of their own: what is written here is a file that Python opened.
"""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpmseg.io.damage import DAMAGE
from ddpmseg.io.files import atomic_write

UNREADABLE = (SafetensorError, *DAMAGE)
"""Errors from reading a file of another kind and building what it describes."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, card: Mapping[str, Any]) -> None:
    """Write safetensors with `card`, plain JSON values, in the header. Floats become float32."""
    plain = {key: _plain(value) for key, value in tensors.items()}
    write_safetensors(plain, path, {"ddpmseg": json.dumps(dict(card))})


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors in their dtypes. Raises DiskError."""
    content = save(dict(tensors), metadata)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content)


def npy(array: NDArray[Any]) -> memoryview:
    """The content of a .npy file."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getbuffer()


def save_pickled(content: object, path: Path) -> None:
    """`torch.save` to a path. Raises OSError."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch ends its archive after an error of the disk, and then fails for another reason.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the card that `save_tensors` wrote. Raises one of `UNREADABLE`."""
    with safe_open(path, framework="pt") as file:
        card = json.loads((file.metadata() or {})["ddpmseg"])
        if not isinstance(card, dict):
            raise ValueError("its header does not say what it is")
        names = card.get("class_names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its class names are no list of names")
        return {key: file.get_tensor(key) for key in file.keys()}, card  # noqa: SIM118


def check_shapes(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the module of `build` has tensors of other names or shapes.

    It is built without its values: a damaged file may ask for more than the memory holds.
    """
    with torch.device("meta"):
        expected = {key: value.shape for key, value in build().state_dict().items()}
    found = {key: value.shape for key, value in tensors.items()}
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            shapes = [tuple(some[key]) if key in some else None for some in (found, expected)]
            raise ValueError(f"'{key}' has the shape {shapes[0]}, not {shapes[1]}")


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.float() if value.is_floating_point() else value
