"""The weights of a UNet from a file, or the flags that the file calls for."""

from dataclasses import asdict
from pathlib import Path

from ddpmseg.backbones.guided_diffusion.describe import describe
from ddpmseg.backbones.guided_diffusion.unet import UNetModel
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.weights.read import read_state_dict
from ddpmseg.weights.shapes import Shapes, differences, listed, shapes_of


def load_weights(network: UNetModel, path: Path, flags_key: str) -> None:
    """Load the file into `network`, every key and every shape, converted to the network's dtypes.

    Raises CheckpointError listing what differs and, where it can be told, the flags that fit;
    `flags_key` names the setting to change.
    """
    state = read_state_dict(path)
    given, wanted = shapes_of(state), shapes_of(network.state_dict())
    if problems := differences(given, wanted):
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network built from `{flags_key}` "
            f"({len(problems)} of {len(wanted)} parameters differ):{listed(problems)}\n"
            f"{_way_out(given, wanted, network.image_size, flags_key)}"
        )
    network.load_state_dict(state)


def _way_out(given: Shapes, wanted: Shapes, image_size: int, flags_key: str) -> str:
    """The flags that the file's parameters call for, where they are those of such a network."""
    try:
        theirs, ours = (
            asdict(describe(shapes).flags(image_size, num_heads=1)) for shapes in (given, wanted)
        )
    except (ConfigError, ValueError) as error:
        return (
            f"Set `{flags_key}` to the flags the checkpoint was trained with; they cannot be told "
            f"from the file: {error}."
        )
    changes = " ".join(
        f"{flags_key}.{flag}={_override(theirs[flag])}"
        for flag in theirs
        if theirs[flag] != ours[flag]
    )
    return f"For images of {image_size} pixels the file fits with `{changes}`."


def _override(value: object) -> str:
    """A value as Hydra's command line reads it."""
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
