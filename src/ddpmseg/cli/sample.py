"""`sample`: images of a diffusion model, labelled by a finished run."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, typed


def add(commands: Any) -> None:
    def run(given: list[str], config_dir: Path, **options: Any) -> int:
        from ddpmseg.sampling.sample import sample

        overrides = [word if "=" in word else f"backbone={word}" for word in given]
        sample(typed(config_dir, *overrides), **options)
        return 0

    text = "draw images from a diffusion model, and label them as training images"
    command = add_command(commands, "sample", run, text)
    command.add_argument(
        "given",
        nargs="*",
        metavar="BACKBONE|override",
        help="such as ddpm_ponies, backbone.key=...",
    )
    command.add_argument("--num", type=int, required=True, help="images in the folder at the end")
    command.add_argument(
        "--output", type=Path, required=True, help="such as ROOT/ddpm; goes on where it was stopped"
    )
    command.add_argument(
        "--steps", type=int, help="of the sampling; all: as the paper (default), fewer: DDIM"
    )
    command.add_argument("--seed", type=int, default=0, help="draws the noise")
    command.add_argument("--batch-size", type=int, default=8, help="images per forward pass")
    command.add_argument("--labels", type=Path, help="folder of a train.py run that labels them")
    command.add_argument("--keep", type=int, help="use only so many, the most certain")
    command.add_argument(
        "--filter-out", type=float, metavar="SHARE", help="or leave out so many: 0.1, as the paper"
    )
    command.add_argument(
        "--drop-certain",
        type=int,
        help="leave out so many of the most certain (default: 30 in 50,000, as the original)",
    )
    command.add_argument("--config-dir", type=Path, default=Path("conf"))
