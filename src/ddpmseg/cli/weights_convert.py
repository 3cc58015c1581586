"""`weights convert-diffusers` and `weights convert-guided`: between the two libraries."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, add_overrides


def add(commands: Any) -> None:
    """`commands` are those of `weights`."""

    def to_diffusers(checkpoint: str, output: Path, config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.weight_tools.convert_weights import convert_to_diffusers, flags_from

        convert_to_diffusers(checkpoint, output, flags_from(config_dir, overrides))
        return 0

    def to_guided(**options: Any) -> int:
        from ddpmseg.weight_tools.convert_weights import convert_to_guided

        convert_to_guided(**options)
        return 0

    text = "a guided_diffusion checkpoint as a folder of the diffusers library"
    command = add_command(commands, "convert-diffusers", to_diffusers, text)
    command.add_argument("checkpoint", help=".pt or .safetensors file, or bundled:NAME")
    command.add_argument("output", type=Path, help="folder to write")
    add_overrides(command)
    text = "a folder of the diffusers library as a guided_diffusion checkpoint"
    command = add_command(commands, "convert-guided", to_guided, text)
    command.add_argument("checkpoint", help="folder, or OWNER/NAME from the hub's cache")
    command.add_argument("output", type=Path, help=".pt or .safetensors file to write")
    order = command.add_mutually_exclusive_group()
    order.add_argument(
        "--new-attention-order", dest="use_new_attention_order", action="store_true", default=None
    )
    order.add_argument(
        "--old-attention-order", dest="use_new_attention_order", action="store_false", default=None
    )
