"""A trained head as one file that nothing has to be executed to read."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ddpmseg.errors import CheckpointError
from ddpmseg.files import written_whole
from ddpmseg.heads.mlp import StackedMLP

SHAPE = ("dim", "num_classes", "members", "hidden")


def save_head(head: StackedMLP, path: Path, facts: dict[str, Any]) -> None:
    """Write the weights (fp32) as safetensors; its shape and `facts` go into the header as JSON."""
    card = {key: getattr(head, key) for key in SHAPE} | facts
    tensors = {k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    with written_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={"ddpmseg": json.dumps(card)})


def load_head(path: Path) -> tuple[StackedMLP, dict[str, Any]]:
    """The head and the facts written by `save_head`.

    Raises CheckpointError when the file is missing, damaged or no head.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["ddpmseg"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        head = StackedMLP(**{key: card.pop(key) for key in SHAPE})
        head.load_state_dict(tensors)
    except (
        OSError,
        SafetensorError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"'{path}' is not a head written by ddpmseg ({error}). "
            "Name the folder of a finished run."
        ) from error
    return head.eval(), card
