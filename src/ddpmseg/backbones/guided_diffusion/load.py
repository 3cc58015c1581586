"""Loads the weights of a UNet, or finds the flags that fit the file."""

from dataclasses import asdict
from pathlib import Path

from ddpmseg.backbones.guided_diffusion.describe import NEEDED, OtherKindError, describe
from ddpmseg.backbones.guided_diffusion.unet import UNetModel
from ddpmseg.command_line import overrides
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.weights.read import read_state_dict
from ddpmseg.weights.shapes import Shapes, differences, listed, shapes_of


def load_weights(network: UNetModel, path: Path, flags_key: str) -> None:
    """Load all parameters of `network` from the file, converted to the network's dtypes.

    Raises CheckpointError for a network of a kind that cannot be a backbone, and if names or shapes
    differ; the message lists the differences and, if they can be inferred, the fitting flags.
    `flags_key` names the setting to change.
    """
    state = read_state_dict(path)
    actual, expected = shapes_of(state), shapes_of(network.state_dict())
    if problems := differences(actual, expected):
        _check_kind(actual, path)
        raise CheckpointError(
            f"checkpoint '{path}' does not fit the network built from `{flags_key}` "
            f"({len(problems)} of {len(expected)} parameters differ):{listed(problems)}\n"
            f"{_advice(actual, expected, network.image_size, flags_key)}"
        )
    network.load_state_dict(state)


def _check_kind(actual: Shapes, path: Path) -> None:
    """Raise CheckpointError for a network that no flags could make a backbone."""
    try:
        describe(actual)
    except OtherKindError as error:
        raise CheckpointError(
            f"checkpoint '{path}' cannot be used as a backbone: {error}. {NEEDED}"
        ) from error
    except ValueError:
        return  # of this kind and not whole: the differences say more


def _advice(actual: Shapes, expected: Shapes, image_size: int, flags_key: str) -> str:
    """The flags that fit the file's parameters, if they are those of such a network."""
    try:
        fitting, current = (
            asdict(describe(shapes).flags(image_size, num_heads=1)) for shapes in (actual, expected)
        )
    except (ConfigError, ValueError) as error:
        return (
            f"Set `{flags_key}` to the flags the checkpoint was trained with; they cannot be "
            f"inferred from the file: {error}."
        )
    changes = {f"{flags_key}.{flag}": v for flag, v in fitting.items() if v != current[flag]}
    return f"For images of {image_size} pixels the file fits with `{overrides(changes)}`."
