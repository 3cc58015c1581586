"""Commands before a run of `train` and after it."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import (
    add_accelerator,
    add_command,
    add_config_dir,
    add_overrides,
    number,
    path,
    seed,
    show,
    typed,
)
from ddpmseg.cli.completion import add_settings
from ddpmseg.command_line import hydra_override


def add_before(commands: Any) -> None:
    """`estimate`, `blocks`, `check-backbone`: what a run would do, before it is started."""
    text = "memory, forward passes and time of a run, with the overrides of train"
    add_overrides(add_command(commands, "estimate", _estimate, text))
    text = "the decoder blocks of a backbone: channels, size, layers"
    add_overrides(add_command(commands, "blocks", _blocks, text))
    text = "try whether a backbone keeps its promises; status 1 if it breaks any"
    add_overrides(add_command(commands, "check-backbone", _check_backbone, text))


def add_after(commands: Any) -> None:
    """`predict`, `export`, `sample`: what is done with a finished run."""
    text = "segment photographs with the head of a finished run"
    command = add_command(commands, "predict", _predict, text)
    command.add_argument("images", nargs="+", type=path, help="photographs of any size")
    command.add_argument("--run", required=True, type=path, help="output folder of ddpmseg train")
    text = "masks and overlays; default: outputs/predict"
    command.add_argument("--output-dir", type=path, default=Path("outputs/predict"), help=text)
    add_accelerator(command)

    text = "write the head of a finished run as the original code's model_*.pth"
    command = add_command(commands, "export", _export, text)
    command.add_argument("run", type=path, help="output folder of ddpmseg train")
    command.add_argument("output_dir", type=path, help="folder to write, new or empty")

    text = "draw images from a diffusion model, and label them as training images"
    command = add_command(commands, "sample", _sample, text)
    add_settings(
        command, "train", "given", "such as ddpm_ponies, backbone.key=...", "BACKBONE|override"
    )
    command.add_argument(
        "--num", type=number, required=True, help="images in the folder at the end"
    )
    command.add_argument(
        "--output", type=path, required=True, help="such as ROOT/ddpm; goes on where it was stopped"
    )
    command.add_argument(
        "--steps", type=number, help="of the sampling; all: as the paper (default), fewer: DDIM"
    )
    command.add_argument("--seed", type=seed, default=0, help="draws the noise")
    command.add_argument("--batch-size", type=number, default=8, help="images per forward pass")
    text = "output folder of ddpmseg train, whose head labels them"
    command.add_argument("--labels", type=path, help=text)
    command.add_argument("--keep", type=number, help="use only so many, the most certain")
    command.add_argument(
        "--filter-out", type=float, metavar="SHARE", help="or leave out so many: 0.1, as the paper"
    )
    command.add_argument(
        "--drop-certain",
        type=number,
        help="leave out so many of the most certain (default: 30 in 50,000, as the original)",
    )
    add_config_dir(command)


def _estimate(config_dir: Path | None, overrides: list[str]) -> int:
    from ddpmseg.composition import plan

    return show(plan.estimate(plan.compose(config_dir, overrides)))


def _blocks(config_dir: Path | None, overrides: list[str]) -> int:
    from ddpmseg.composition import plan

    # Checked against types alone: the user may ask for the blocks in order to choose some.
    return show(plan.blocks(typed(config_dir, *overrides)))


def _check_backbone(config_dir: Path | None, overrides: list[str]) -> int:
    from ddpmseg.weight_tools.contract import check_backbone

    return 0 if check_backbone(typed(config_dir, *overrides)) else 1


def _predict(**options: Any) -> int:
    from ddpmseg.runs.predict import predict

    predict(**options)
    return 0


def _export(**options: Any) -> int:
    from ddpmseg.runs.export import export

    export(**options)
    return 0


def _sample(given: list[str], config_dir: Path | None, **options: Any) -> int:
    from ddpmseg.sampling.sample import sample

    overrides = [word if "=" in word else hydra_override("backbone", word) for word in given]
    sample(typed(config_dir, *overrides), **options)
    return 0
