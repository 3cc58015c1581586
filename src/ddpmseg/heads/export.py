"""A trained head as one file that nothing has to be executed to read."""

from pathlib import Path
from typing import Any

from ddpmseg.errors import CheckpointError
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.io.tensor_file import UNREADABLE, load_tensors, save_tensors

HEAD = "head.safetensors"
"""The file of a finished run."""
SHAPE = ("dim", "num_classes", "members", "hidden")


def save_head(head: StackedMLP, path: Path, facts: dict[str, Any]) -> None:
    """Write the weights (fp32) as safetensors; its shape and `facts` go into the header as JSON."""
    save_tensors(head.state_dict(), path, {key: getattr(head, key) for key in SHAPE} | facts)


def load_head(path: Path) -> tuple[StackedMLP, dict[str, Any]]:
    """The head and the facts written by `save_head`.

    Raises CheckpointError when the file is missing, damaged or no head.
    """
    try:
        tensors, card = load_tensors(path)
        head = StackedMLP(**{key: card.pop(key) for key in SHAPE})
        head.load_state_dict(tensors)
    except UNREADABLE as error:
        raise CheckpointError(
            f"'{path}' is not a head written by ddpmseg ({error}). "
            "Name the folder of a finished run."
        ) from error
    return head.eval(), card
