"""`compare`, `table` and `robustness`: finished runs side by side."""

import argparse
from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_accelerator, add_command, number, path, seed


def add(commands: Any) -> None:
    _add_compare(commands)
    _add_table(commands)
    _add_robustness(commands)


def _add_compare(commands: Any) -> None:
    text = "rank finished runs: what differs, which is best, by how much, in which classes"
    command = add_command(commands, "compare", _compare, text)
    _add_choice_of_runs(command, "text")
    command.add_argument(
        "--group-by", action="append", default=[], metavar="KEY",
        help="rank within the values of this setting, such as dataset.num_labelled",
    )  # fmt: skip
    command.add_argument(
        "--against", action="append", default=[], metavar="KEY=VALUE",
        help="differences are to this setting, not to the best of the group",
    )  # fmt: skip
    command.add_argument("--sort", metavar="KEY", help="rows by the values of this setting")
    command.add_argument("--best", action="store_true", help="only the best of each group")
    command.add_argument(
        "--per-run", action="store_true", help="every run by itself, with its folder"
    )
    command.add_argument(
        "--per-class", action="store_true", help="IoU of every class, by how much it differs"
    )
    command.add_argument("--figure", type=path, help="draw the table as .png or .svg")


def _add_table(commands: Any) -> None:
    text = "means over finished runs, beside the paper's numbers"
    command = add_command(commands, "table", _table, text)
    _add_choice_of_runs(command, "md")
    command.add_argument(
        "--by", action="append", default=[], metavar="KEY",
        help="rows are the values of this setting, as head.members; a second one makes columns",
    )  # fmt: skip
    command.add_argument("--line", metavar="KEY", help="columns and lines; else one per dataset")
    command.add_argument("--figure", type=path, help="draw the means of --by as .png or .svg")


def _add_choice_of_runs(command: argparse.ArgumentParser, style: str) -> None:
    """Let the command take runs, a choice among them, and the form of the table they become."""
    command.add_argument("paths", nargs="+", type=path, help="run folders, or folders above them")
    command.add_argument(
        "--metric", default="miou", choices=("miou", "miou_present", "pixel_accuracy"),
        help="the score in the table; default: miou",
    )  # fmt: skip
    command.add_argument(
        "--where", action="append", default=[], metavar="KEY[!]=VALUE",
        help="only runs with this setting; either value where a key is named again",
    )  # fmt: skip
    command.add_argument(
        "--vary", action="append", default=[], metavar="KEY",
        help="only runs beside others that differ in this setting and, but for seeds, nothing else",
    )  # fmt: skip
    command.add_argument(
        "--over", action="append", default=[], metavar="KEY", help="average over this setting too"
    )
    command.add_argument(
        "--format", dest="style", default=style, choices=("text", "md", "csv", "latex"),
        help=f"of the table; default: {style}",
    )  # fmt: skip
    command.add_argument("--output", type=path, help="a file instead of stdout")


def _add_robustness(commands: Any) -> None:
    text = "test the heads of finished runs on corrupted images"
    command = add_command(commands, "robustness", _robustness, text)
    command.add_argument("runs", nargs="+", type=path, help="run folders, or folders above them")
    command.add_argument(
        "--types", type=_words, default=["noise", "blur", "weather", "digital"], metavar="A,B",
        help="types or families (noise, blur, weather, digital); default: all 19 types",
    )  # fmt: skip
    command.add_argument(
        "--severities", type=_numbers, default=[1, 3, 5], metavar="1,3,5",
        help="of 1..5; 1, 3, 5 are called weak, medium, strong",
    )  # fmt: skip
    command.add_argument("--images", type=number, metavar="N", help="the first N test images only")
    command.add_argument("--seed", type=seed, default=0, help="draws the corruptions")
    text = "folder of the report; default: outputs/robustness"
    command.add_argument("--output", type=path, default=Path("outputs/robustness"), help=text)
    text = "keeps corrupted images; default: $DDPMSEG_CACHE, or ~/.cache/ddpmseg"
    command.add_argument("--cache-dir", type=path, help=text)
    add_accelerator(command)


def _compare(**options: Any) -> int:
    from ddpmseg.compare.compare import compare

    compare(**options)
    return 0


def _table(**options: Any) -> int:
    from ddpmseg.compare.table import table

    table(**options)
    return 0


def _robustness(**options: Any) -> int:
    from ddpmseg.robustness.run import robustness

    robustness(**options)
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}': give whole numbers, as in 1,3,5") from error
