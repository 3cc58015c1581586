"""What `robustness` leaves for its reader: rows, tables, figures."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ddpmseg.data.corrupted import CorruptedVersions
from ddpmseg.data.corruptions import Corruption
from ddpmseg.io.files import atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.io.locks import FolderLocks
from ddpmseg.io.stdout import write_out
from ddpmseg.records.results import write_table
from ddpmseg.report.canvas import save_figure
from ddpmseg.robustness.figures import examples_figure, robustness_figure
from ddpmseg.robustness.scores import COLUMNS, Robustness, drop_table, lines, miou_table
from ddpmseg.robustness.store import ELSEWHERE
from ddpmseg.tables.table import FORMATS

log = logging.getLogger(__name__)
SUFFIXES = {"md": "md", "csv": "csv", "latex": "tex"}


def write_report(
    folder: Path,
    tested: Sequence[Robustness],
    versions: CorruptedVersions,
    corruptions: Sequence[Corruption],
) -> None:
    """Write robustness.csv, the tables in every format, robustness.png and .svg, examples.png.

    versions: of a test set whose first image the examples show. Raises DataError where `folder`
    cannot be written to.
    """
    drawn = lines(tested)
    tables = {"miou": miou_table(drawn), "drop": drop_table(drawn)}
    with (
        explain_unwritable(folder, ELSEWHERE),
        FolderLocks(folder).hold({"report": f"the report in '{folder}' is being written"}),
    ):
        remove_unfinished(folder)
        write_table(
            folder / "robustness.csv", COLUMNS, [row for one in tested for row in one.rows()]
        )
        for name, table in tables.items():
            for style, suffix in SUFFIXES.items():
                with atomic_write(folder / f"{name}.{suffix}") as unfinished:
                    unfinished.write_text(FORMATS[style](table), encoding="utf-8")
        for suffix in ("png", "svg"):
            save_figure(robustness_figure(drawn), folder / f"robustness.{suffix}")
        pictures = {one: versions.draw(0, one) for one in corruptions}
        save_figure(examples_figure(versions.pixels(0), pictures), folder / "examples.png")
    write_out("\n".join(FORMATS["md"](table) for table in tables.values()))
    log.info("%d tests in %s", sum(1 + len(one.corrupted) for one in tested), folder)
