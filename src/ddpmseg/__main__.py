"""Small commands beside the programs: python -m ddpmseg {predict,report,select,data,...}."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ddpmseg.errors import UserError

# What a command needs is imported when it runs: `--help` shall not wait for torch.


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser("python -m ddpmseg", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _predict(commands)
    _estimate_and_blocks(commands)
    _export(commands)
    _table(commands)
    _report(commands)
    _select(commands)
    data = commands.add_parser("data", help="labelled images: get, check, convert")
    weights = commands.add_parser("weights", help="weight files: get, describe")
    _data(data.add_subparsers(required=True))
    _weights(weights.add_subparsers(required=True))
    options = vars(parser.parse_args(arguments))
    run = options.pop("run_command")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return run(**options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _add(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    """A command whose options are the arguments of `run`, which returns the exit status."""
    command = commands.add_parser(name, help=text)
    command.set_defaults(run_command=run)
    return command


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument("overrides", nargs="*", help="as for train.py: group.key=value ...")
    command.add_argument("--config-dir", type=Path, default=Path("conf"))


def _show(lines: Iterable[str]) -> int:
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _predict(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.apps.predict import predict

        predict(**options)
        return 0

    command = _add(commands, "predict", run, "segment photographs with the head of a finished run")
    command.add_argument("images", nargs="+", type=Path)
    command.add_argument("--run", required=True, type=Path, help="output folder of a train.py run")
    command.add_argument("--output-dir", type=Path, default=Path("outputs/predict"))
    command.add_argument("--accelerator", default="auto")


def _estimate_and_blocks(commands: Any) -> None:
    def estimate(config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.apps import checks, plan

        return _show(plan.estimate(plan.compose(config_dir, overrides, checks.planned_config)))

    def blocks(config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.apps import checks, plan

        # Who asks which blocks there are cannot be expected to have chosen them already.
        return _show(plan.blocks(plan.compose(config_dir, overrides, checks.typed_config)))

    text = "memory, forward passes and time of a run, with train.py's overrides"
    _add_overrides(_add(commands, "estimate", estimate, text))
    text = "the decoder blocks of a backbone: channels, size, layers"
    _add_overrides(_add(commands, "blocks", blocks, text))


def _export(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.apps.export import export

        export(**options)
        return 0

    text = "write the head of a finished run as the original code's model_*.pth"
    command = _add(commands, "export", run, text)
    command.add_argument("run", type=Path, help="output folder of a train.py run")
    command.add_argument("output_dir", type=Path)


def _table(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.apps.table import table

        table(**options)
        return 0

    command = _add(commands, "table", run, "means over runs of train.py, beside the paper's")
    command.add_argument("paths", nargs="+", type=Path, help="run folders, or folders above them")
    command.add_argument(
        "--metric", default="miou", choices=("miou", "miou_present", "pixel_accuracy")
    )
    command.add_argument(
        "--by", action="append", default=[], metavar="KEY",
        help="rows are the values of this setting, as head.members; a second one makes columns",
    )  # fmt: skip
    command.add_argument("--line", metavar="KEY", help="columns and lines; else one per dataset")
    command.add_argument(
        "--over", action="append", default=[], metavar="KEY", help="average over this setting too"
    )
    command.add_argument("--format", dest="style", default="md", choices=("md", "csv", "latex"))
    command.add_argument("--output", type=Path, help="a file instead of stdout")
    command.add_argument("--figure", type=Path, help="draw the means of --by as .png or .svg")


def _report(commands: Any) -> None:
    def run(folder: Path) -> int:
        from ddpmseg.apps.report import write_sweep_report

        write_sweep_report(folder)
        return 0

    command = _add(commands, "report", run, "draw the report of a sweep's folder anew")
    command.add_argument("folder", type=Path)


def _select(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.apps.select import select

        return _show(select(**options).lines())

    text = "propose blocks and timesteps for a multi-feature head, from a sweep"
    command = _add(commands, "select", run, text)
    command.add_argument("folder", type=Path, help="output folder of sweep.py")
    command.add_argument("--passes", type=int, default=3, help="timesteps at most")
    command.add_argument(
        "--channels", dest="max_channels", type=int, help="features of a pixel vector at most"
    )
    command.add_argument("--accelerator", default="auto")


def _data(commands: Any) -> None:
    def get(name: str, config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.apps import checks, plan
        from ddpmseg.apps.get import get_dataset

        config = plan.compose(config_dir, [f"dataset={name}", *overrides], checks.typed_config)
        get_dataset(config.dataset, config.paths)
        return 0

    def check(name: str, config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.apps import checks, plan
        from ddpmseg.apps.check import check_dataset

        config = plan.compose(config_dir, [f"dataset={name}", *overrides], checks.typed_config)
        return 0 if check_dataset(config.dataset) else 1

    def convert(**options: Any) -> int:
        from ddpmseg.apps.convert import convert

        return _show(convert(**options))

    for action, run, text in (
        ("get", get, "fetch and unpack a dataset of conf/dataset/"),
        ("check", check, "read every file of a dataset and name what is wrong; status 1 if any is"),
    ):
        command = _add(commands, action, run, text)
        command.add_argument("name", help="such as horse_21")
        _add_overrides(command)
    command = _add(commands, "convert", convert, "annotations of COCO or labelme to a folder")
    command.add_argument("source", type=Path, help="COCO .json, or a folder of labelme .json files")
    command.add_argument("output_dir", type=Path, help="must be new or empty")
    command.add_argument("--images", type=Path, help="folder of the images; default: of the .json")
    for split in ("train", "test"):
        text = f"{split} images: a share (0.5), a number (20), or a text file of names"
        command.add_argument(f"--{split}", help=text)
    command.add_argument("--seed", type=int, default=0, help="draws the split")
    command.add_argument("--classes", type=Path, help="text file of class names, one a line")
    command.add_argument(
        "--unlabelled", choices=("background", "ignore"), default="background", help="what they are"
    )
    command.add_argument(
        "--on-top", choices=("smaller", "later"), default="smaller", help="where shapes overlap"
    )
    command.add_argument("--config", type=Path, help="also write conf/dataset/NAME.yaml")
    command.add_argument(
        "--image-size",
        type=int,
        default=256,
        help="for --config: the side at which the backbone sees images",
    )


def _weights(commands: Any) -> None:
    def get(name: str, config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.apps import checks, plan
        from ddpmseg.apps.get import get_weights

        config = plan.compose(config_dir, [f"backbone={name}", *overrides], checks.typed_config)
        get_weights(config.backbone)
        return 0

    def describe(checkpoint: str, output: Path | None, **known: Any) -> int:
        from ddpmseg.apps.describe import Known, describe_weights

        return _show(describe_weights(checkpoint, Known(**known), output))

    command = _add(commands, "get", get, "fetch the weight file of a backbone of conf/backbone/")
    command.add_argument("name", help="such as ddpm_lsun_horse")
    _add_overrides(command)
    command = _add(commands, "describe", describe, "which network a checkpoint holds")
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


if __name__ == "__main__":
    sys.exit(main())
