"""`weights get`, `weights describe` and the conversions of weight files."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, add_group, add_overrides, number, path, show, typed
from ddpmseg.cli.completion import add_choice
from ddpmseg.command_line import hydra_override


def add(commands: Any) -> None:
    commands = add_group(commands, "weights", "weight files: get, describe, convert")
    text = "fetch the weight file of a backbone of conf/backbone/"
    command = add_command(commands, "get", _get, text)
    add_choice(command, "name", "backbone", "such as ddpm_lsun_horse")
    add_overrides(command)
    _add_describe(commands)
    _add_conversions(commands)


def _add_describe(commands: Any) -> None:
    command = add_command(commands, "describe", _describe, "which network a checkpoint holds")
    command.add_argument("checkpoint", help=".pt or .safetensors file of a state dict")
    command.add_argument("--image-size", type=number, help="side of the training images")
    heads = command.add_mutually_exclusive_group()
    heads.add_argument("--num-head-channels", type=number, help="channels of an attention head")
    heads.add_argument("--num-heads", type=number, help="heads of an attention layer")
    command.add_argument(
        "--use-new-attention-order", action="store_true", help="as the flag of guided_diffusion"
    )
    command.add_argument(
        "--noise-schedule", choices=("linear", "cosine"), default="linear",
        help="of the training; default: linear",
    )  # fmt: skip
    text = "of the training; default: 1000"
    command.add_argument("--diffusion-steps", type=number, default=1000, help=text)
    command.add_argument(
        "--rescale-timesteps", action="store_true", help="as the flag of guided_diffusion"
    )
    command.add_argument("--output", type=path, help="write conf/backbone/NAME.yaml")


def _add_conversions(commands: Any) -> None:
    text = "the tensors of a file that is refused for what it holds besides; executes nothing"
    command = add_command(commands, "convert", _convert, text)
    command.add_argument("source", help="file written by torch.save")
    command.add_argument("output", type=path, help="new .safetensors file")
    command.add_argument("--entry", help="under which the file has them, as model or state_dict")

    text = "a guided_diffusion checkpoint as a folder of the diffusers library"
    command = add_command(commands, "convert-diffusers", _convert_to_diffusers, text)
    command.add_argument("checkpoint", help=".pt or .safetensors file, or bundled:NAME")
    command.add_argument("output", type=path, help="folder to write")
    add_overrides(command)


def _get(name: str, config_dir: Path | None, overrides: list[str]) -> int:
    from ddpmseg.composition.build import cache_folder

    config = typed(config_dir, hydra_override("backbone", name), *overrides)
    config.backbone.fetch(cache_folder(config.paths, "downloads"))
    return 0


def _describe(checkpoint: str, output: Path | None, **known: Any) -> int:
    from ddpmseg.weight_tools.describe import describe_weights
    from ddpmseg.weight_tools.recognise import Known

    return show(describe_weights(checkpoint, Known(**known), output))


def _convert(**options: Any) -> int:
    from ddpmseg.weight_tools.salvage import convert_weights

    return show(convert_weights(**options))


def _convert_to_diffusers(
    checkpoint: str, output: Path, config_dir: Path | None, overrides: list[str]
) -> int:
    from ddpmseg.weight_tools.to_diffusers import convert_to_diffusers, flags_from

    convert_to_diffusers(checkpoint, output, flags_from(config_dir, overrides))
    return 0
