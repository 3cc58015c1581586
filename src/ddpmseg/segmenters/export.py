"""Saves a trained segmentation network as one file; reading it executes no code."""

from pathlib import Path
from typing import Any

from ddpmseg.errors import CheckpointError
from ddpmseg.io.damage import reason_of
from ddpmseg.io.tensor_file import UNREADABLE, check_shapes, load_tensors, save_tensors
from ddpmseg.segmenters.deeplab import DeepLab

SEGMENTER = "segmenter.safetensors"
"""The file of a finished run."""
SHAPE = ("architecture", "num_classes")


def save_segmenter(network: DeepLab, path: Path, facts: dict[str, Any]) -> None:
    """Write the weights (fp32) under torchvision's names, and shape and `facts` into the header."""
    card = {key: getattr(network, key) for key in SHAPE} | facts
    save_tensors(network.network.state_dict(), path, card)


def load_segmenter(path: Path) -> tuple[DeepLab, dict[str, Any]]:
    """The network, in eval mode on the CPU, and the facts that `save_segmenter` wrote.

    Raises CheckpointError when the file is missing, damaged or no segmentation network.
    """
    try:
        tensors, card = load_tensors(path)
        shape = {key: card.pop(key) for key in SHAPE}
        check_shapes(lambda: DeepLab(**shape).network, tensors)
        network = DeepLab(**shape)
        network.network.load_state_dict(tensors)
    except UNREADABLE as error:
        raise CheckpointError(
            f"'{path}' is not a segmentation network written by ddpmseg ({reason_of(error)}). Name "
            "the folder of a finished run of task=distill; if it is damaged, repeat its command "
            "with `paths.overwrite=true`."
        ) from error
    return network.eval(), card
