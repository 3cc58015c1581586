"""A trained head as one file that nothing has to be executed to read."""

from pathlib import Path
from typing import Any

from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.heads.base import Head
from ddpmseg.heads.registry import HEADS
from ddpmseg.io.damage import reason_of
from ddpmseg.io.tensor_file import UNREADABLE, check_shapes, load_tensors, save_tensors

HEAD = "head.safetensors"
"""The file of a finished run."""
SHAPE = ("dim", "num_classes")
FIRST_KIND = "mlp"
"""Of heads written before there were others, whose files do not say it."""


def save_head(head: Head, path: Path, facts: dict[str, Any]) -> None:
    """Write the state (floats in fp32) as safetensors, and as JSON in the header what it is.

    That is its kind, its constructor's arguments and `facts`.
    """
    arguments = {key: getattr(head, key) for key in (*SHAPE, *head.arguments)}
    save_tensors(head.state_dict(), path, {"kind": head.kind} | arguments | facts)


def load_head(path: Path) -> tuple[Head, dict[str, Any]]:
    """The head, in eval mode on the CPU, and the facts written by `save_head`.

    Raises CheckpointError when the file is missing, damaged or no head, or its kind is unknown.
    """
    try:
        tensors, card = load_tensors(path)
        kind = HEADS[card.pop("kind", FIRST_KIND)].head_type()
        arguments = {key: card.pop(key) for key in (*SHAPE, *kind.arguments)}
        check_shapes(lambda: kind(**arguments), tensors)
        head = kind(**arguments)
        head.load_state_dict(tensors)
    except UNREADABLE as error:
        raise CheckpointError(
            f"'{path}' is not a head written by ddpmseg ({reason_of(error)}). Name the folder of a "
            "finished run; if it is damaged, repeat its command with `paths.overwrite=true`."
        ) from error
    except ConfigError as error:
        raise CheckpointError(
            f"'{path}': {error} Install the package that this head comes from."
        ) from error
    return head.eval(), card
