"""`weights get`, `weights describe`, `weights convert` and, in a module of its own, one more."""

from pathlib import Path
from typing import Any

from ddpmseg.cli import weights_convert
from ddpmseg.cli.common import add_command, add_overrides, show, typed


def add(commands: Any) -> None:
    commands = commands.add_parser(
        "weights", help="weight files: get, describe, convert"
    ).add_subparsers(required=True)

    def get(name: str, config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.composition.get import get_weights

        config = typed(config_dir, f"backbone={name}", *overrides)
        get_weights(config.backbone)
        return 0

    def describe(checkpoint: str, output: Path | None, **known: Any) -> int:
        from ddpmseg.weight_tools.describe import Known, describe_weights

        return show(describe_weights(checkpoint, Known(**known), output))

    def convert(**options: Any) -> int:
        from ddpmseg.weight_tools.salvage import convert_weights

        return show(convert_weights(**options))

    command = add_command(
        commands, "get", get, "fetch the weight file of a backbone of conf/backbone/"
    )
    command.add_argument("name", help="such as ddpm_lsun_horse")
    add_overrides(command)
    command = add_command(commands, "describe", describe, "which network a checkpoint holds")
    command.add_argument("checkpoint", help=".pt or .safetensors file of a state dict")
    command.add_argument("--image-size", type=int, help="side of the training images")
    heads = command.add_mutually_exclusive_group()
    heads.add_argument("--num-head-channels", type=int, help="channels of an attention head")
    heads.add_argument("--num-heads", type=int, help="heads of an attention layer")
    command.add_argument("--use-new-attention-order", action="store_true")
    command.add_argument("--noise-schedule", choices=("linear", "cosine"), default="linear")
    command.add_argument("--diffusion-steps", type=int, default=1000)
    command.add_argument("--rescale-timesteps", action="store_true")
    command.add_argument("--output", type=Path, help="write conf/backbone/NAME.yaml")
    text = "the tensors of a file that is refused for what it holds besides; executes nothing"
    command = add_command(commands, "convert", convert, text)
    command.add_argument("source", help="file written by torch.save")
    command.add_argument("output", type=Path, help="new .safetensors file")
    command.add_argument("--entry", help="under which the file has them, as model or state_dict")
    weights_convert.add(commands)
