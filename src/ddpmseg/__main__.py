"""Small commands beside the programs: python -m ddpmseg {predict,report,select,...}."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

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
    export = commands.add_parser(
        "export", help="write the head of a finished run as the original code's model_*.pth"
    )
    export.add_argument("run", type=Path, help="output folder of a train.py run")
    export.add_argument("output_dir", type=Path)
    _add_table(commands)
    report = commands.add_parser("report", help="draw the report of a sweep's folder anew")
    report.add_argument("folder", type=Path)
    choose = commands.add_parser(
        "select", help="propose blocks and timesteps for a multi-feature head, from a sweep"
    )
    choose.add_argument("folder", type=Path, help="output folder of sweep.py")
    choose.add_argument("--passes", type=int, default=3, help="timesteps at most")
    choose.add_argument("--channels", type=int, help="features of a pixel vector at most")
    choose.add_argument("--accelerator", default="auto")
    data = commands.add_parser("data", help="labelled images: get the paper's sets, check any")
    data = data.add_subparsers(dest="action", required=True)
    weights = commands.add_parser("weights", help="weight files: get the paper's")
    weights = weights.add_subparsers(dest="action", required=True)
    for parent, action, text in (
        (data, "get", "fetch and unpack a dataset of conf/dataset/"),
        (data, "check", "read every file of a dataset and name what is wrong; status 1 if any is"),
        (weights, "get", "fetch the weight file of a backbone of conf/backbone/"),
    ):
        command = parent.add_parser(action, help=text)
        command.add_argument("name", help="such as horse_21 or ddpm_lsun_horse")
        command.add_argument("overrides", nargs="*", help="as for train.py: group.key=value ...")
        command.add_argument("--config-dir", type=Path, default=Path("conf"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if options.command in ("data", "weights"):
            return _get_or_check(options)
        _run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _get_or_check(options: argparse.Namespace) -> int:
    """Exit status of `data get`, `data check` and `weights get`."""
    from ddpmseg.apps import checks, plan
    from ddpmseg.apps.check import check_dataset
    from ddpmseg.apps.get import get_dataset, get_weights

    group = "dataset" if options.command == "data" else "backbone"
    overrides = [f"{group}={options.name}", *options.overrides]
    config = plan.compose(options.config_dir, overrides, checks.typed_config)
    if options.action == "check":
        return 0 if check_dataset(config.dataset) else 1
    if options.command == "data":
        get_dataset(config.dataset, config.paths)
    else:
        get_weights(config.backbone)
    return 0


def _add_table(commands: Any) -> None:
    one = commands.add_parser("table", help="means over runs of train.py, beside the paper's")
    one.add_argument("paths", nargs="+", type=Path, help="run folders, or folders above them")
    one.add_argument("--metric", default="miou", choices=("miou", "miou_present", "pixel_accuracy"))
    one.add_argument(
        "--by", action="append", default=[], metavar="KEY",
        help="rows are the values of this setting, as head.members; a second one makes columns",
    )  # fmt: skip
    one.add_argument("--line", metavar="KEY", help="columns and lines; else one per dataset")
    one.add_argument(
        "--over", action="append", default=[], metavar="KEY", help="average over this setting too"
    )
    one.add_argument("--format", dest="style", default="md", choices=("md", "csv", "latex"))
    one.add_argument("--output", type=Path, help="a file instead of stdout")
    one.add_argument("--figure", type=Path, help="draw the means of --by as .png or .svg")


def _run(options: argparse.Namespace) -> None:
    if options.command == "predict":
        from ddpmseg.apps.predict import predict

        predict(options.images, options.run, options.output_dir, options.accelerator)
        return
    if options.command == "table":
        from ddpmseg.apps.table import table

        given = {k: v for k, v in vars(options).items() if k != "command"}
        table(**given)
        return
    if options.command == "export":
        from ddpmseg.apps.export import export

        export(options.run, options.output_dir)
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
