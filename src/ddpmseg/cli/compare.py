"""`compare`: any runs side by side."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_choice_of_runs, add_command


def add(commands: Any) -> None:
    def run(**options: Any) -> int:
        from ddpmseg.compare.compare import compare

        compare(**options)
        return 0

    text = "rank runs of train.py: what differs, which is best, by how much, in which classes"
    command = add_command(commands, "compare", run, text)
    add_choice_of_runs(command, "text")
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
    command.add_argument("--figure", type=Path, help="draw the table as .png or .svg")
