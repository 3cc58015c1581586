"""`weights convert-diffusers`: from guided_diffusion to the diffusers library."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, add_overrides


def add(commands: Any) -> None:
    """`commands` are those of `weights`."""

    def to_diffusers(checkpoint: str, output: Path, config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.weight_tools.to_diffusers import convert_to_diffusers, flags_from

        convert_to_diffusers(checkpoint, output, flags_from(config_dir, overrides))
        return 0

    text = "a guided_diffusion checkpoint as a folder of the diffusers library"
    command = add_command(commands, "convert-diffusers", to_diffusers, text)
    command.add_argument("checkpoint", help=".pt or .safetensors file, or bundled:NAME")
    command.add_argument("output", type=Path, help="folder to write")
    add_overrides(command)
