"""Small commands beside the programs: python -m ddpmseg {predict,report,select,data,...}."""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from ddpmseg.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser("python -m ddpmseg", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("predict", help="segment photographs with the head of a finished run")
    one.add_argument("images", nargs="+", type=Path)
    one.add_argument("--run", required=True, type=Path, help="output folder of a train.py run")
    one.add_argument("--output-dir", type=Path, default=Path("outputs/predict"))
    one.add_argument("--accelerator", default="auto")
    for name, text in (
        ("estimate", "memory, forward passes and time of a run, with train.py's overrides"),
        ("blocks", "the decoder blocks of a backbone: channels, size, layers"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("overrides", nargs="*", help="as for train.py: group.key=value ...")
        command.add_argument("--config-dir", type=Path, default=Path("conf"))
    report = commands.add_parser("report", help="draw the report of a sweep's folder anew")
    report.add_argument("folder", type=Path)
    choose = commands.add_parser(
        "select", help="propose blocks and timesteps for a multi-feature head, from a sweep"
    )
    choose.add_argument("folder", type=Path, help="output folder of sweep.py")
    choose.add_argument("--passes", type=int, default=3, help="timesteps at most")
    choose.add_argument("--channels", type=int, help="features of a pixel vector at most")
    choose.add_argument("--accelerator", default="auto")
    data = commands.add_parser("data", help="labelled images").add_subparsers(
        dest="action", required=True
    )
    _add_convert(data.add_parser("convert", help="annotations of COCO or labelme to a folder"))
    weights = commands.add_parser("weights", help="weight files").add_subparsers(
        dest="action", required=True
    )
    _add_describe(weights.add_parser("describe", help="which network a checkpoint holds"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        _run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _add_convert(command: argparse.ArgumentParser) -> None:
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


def _add_describe(command: argparse.ArgumentParser) -> None:
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


def _run(options: argparse.Namespace) -> None:
    if options.command == "predict":
        from ddpmseg.apps.predict import predict

        predict(options.images, options.run, options.output_dir, options.accelerator)
        return
    if options.command == "report":
        from ddpmseg.apps.report import write_sweep_report

        write_sweep_report(options.folder)
        return
    if options.command == "select":
        from ddpmseg.apps.select import select

        chosen = select(options.folder, options.passes, options.channels, options.accelerator)
        sys.stdout.write("\n".join(chosen.lines()) + "\n")
        return
    if options.command == "data":
        from ddpmseg.apps.convert import convert

        given = vars(options)
        lines = convert(**{key: given[key] for key in given if key not in ("command", "action")})
        sys.stdout.write("\n".join(lines) + "\n")
        return
    if options.command == "weights":
        from ddpmseg.apps.describe import Known, describe_weights

        known = Known(**{flag.name: getattr(options, flag.name) for flag in fields(Known)})
        lines = describe_weights(options.checkpoint, known, options.output)
        sys.stdout.write("\n".join(lines) + "\n")
        return
    from ddpmseg.apps import checks, plan

    if options.command == "estimate":
        lines = plan.estimate(plan.compose(options.config_dir, options.overrides))
    else:
        # Who asks which blocks there are cannot be expected to have chosen them already.
        unchecked = plan.compose(options.config_dir, options.overrides, checks.typed_config)
        lines = plan.blocks(unchecked)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
