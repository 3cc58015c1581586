"""`robustness`: finished heads on corrupted images."""

import argparse
from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command


def add(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.robustness.run import robustness

        robustness(**options)
        return 0

    text = "test the heads of finished runs on corrupted images"
    command = add_command(commands, "robustness", run, text)
    command.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    command.add_argument(
        "--types", type=_words, default=["noise", "blur", "weather", "digital"], metavar="A,B",
        help="types or families (noise, blur, weather, digital); default: all 19 types",
    )  # fmt: skip
    command.add_argument(
        "--severities", type=_numbers, default=[1, 3, 5], metavar="1,3,5",
        help="of 1..5; 1, 3, 5 are called weak, medium, strong",
    )  # fmt: skip
    command.add_argument("--images", type=int, metavar="N", help="the first N test images only")
    command.add_argument("--seed", type=int, default=0, help="draws the corruptions")
    command.add_argument("--output", type=Path, default=Path("outputs/robustness"))
    text = "keeps corrupted images; default: $DDPMSEG_CACHE, or ~/.cache/ddpmseg"
    command.add_argument("--cache-dir", type=Path, help=text)
    command.add_argument("--accelerator", default="auto")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}': give whole numbers, as in 1,3,5") from error
