"""From the newest rows to the tables of `performance.md` and its figures."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.plots import FIGURES
from benchmarks.record import FASTER, SMALLER, Row, newest, read, shown
from ddpmseg.errors import DataError
from ddpmseg.io.files import atomic_write
from ddpmseg.report.canvas import DPI, house_style

PAGE = "performance.md"
ON_POINTS = " = "
"""Part of the variant of a row that is a point of a curve; it is drawn, not listed."""

log = logging.getLogger(__name__)


def draw(results: Path, docs: Path) -> None:
    """Fill the tables of `docs/performance.md` and write `docs/performance_*.png`.

    Raises DataError where there are no results or the page lacks a marker; nothing is written then.
    """
    rows, page = newest(read(results)), docs / PAGE
    if not page.is_file():
        raise DataError(f"there is no '{page}'. Name the folder that holds it with --docs.")
    figures: dict[Path, Figure] = {}
    text = _between_markers(page.read_text(encoding="utf-8"), "summary", summary(rows), page)
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        some = [row for row in rows if row.benchmark == benchmark]
        path = docs / f"performance_{benchmark}.png"
        figures[path] = FIGURES[benchmark](some)
        content = f"![{benchmark}]({path.name})\n\n{tables(some)}"
        text = _between_markers(text, benchmark, content, page)
    with house_style():
        for path, figure in figures.items():
            with atomic_write(path) as unfinished:
                figure.savefig(unfinished, format="png", dpi=DPI)
            log.info("%s", path)
    with atomic_write(page) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    log.info("%s", page)


def summary(rows: Sequence[Row]) -> str:
    """A table for every machine with a line for every comparison of ours and plain."""
    compared = [row for row in rows if row.quantity.endswith((FASTER, SMALLER))]
    parts = []
    for machine in dict.fromkeys(row.machine for row in compared):
        lines = [f"{machine}; medians (lowest to highest of a turn)", ""]
        lines += ["| benchmark | case | variant | | |", "|---|---|---|---|---|"]
        for row in compared:
            if row.machine == machine:
                what = row.quantity.replace(FASTER, "faster").replace(SMALLER, "smaller")
                lines.append(
                    f"| {row.benchmark} | {row.case} | {row.variant} | {what} | {_cell(row)} x |"
                )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def tables(rows: Sequence[Row]) -> str:
    """A table for every case and machine: a line per quantity, a column per variant."""
    cases = dict.fromkeys((row.case, row.machine) for row in rows)
    return "\n\n".join(
        _table([row for row in rows if (row.case, row.machine) == case]) for case in cases
    )


def _table(rows: Sequence[Row]) -> str:
    first = rows[0]
    listed = [row for row in rows if ON_POINTS not in row.variant]
    variants = sorted({row.variant: None for row in listed}, key=lambda name: name != "plain")
    cells = {(row.quantity, row.variant): row for row in listed}
    notes = list(dict.fromkeys(row.note for row in listed if row.note))
    lines = [
        f"**{first.case}** on {first.machine}; torch {first.torch}, commit {first.commit or '?'}, "
        f"{first.date[:10]}; median (lowest to highest)",
        "",
        "| | " + " | ".join(variants) + " |",
        "|---" * (len(variants) + 1) + "|",
    ]
    for quantity in dict.fromkeys(row.quantity for row in listed):
        found = [cells.get((quantity, variant)) for variant in variants]
        unit = next(row.unit for row in found if row)
        shown = [_cell(row, notes) if row else "" for row in found]
        lines.append(f"| {quantity} ({unit}) | " + " | ".join(shown) + " |")
    footnotes = [f"{index}) {note}" for index, note in enumerate(notes, start=1)]
    return "\n".join([*lines, *(["", "; ".join(footnotes)] if notes else [])])


def _cell(row: Row, notes: Sequence[str] = ()) -> str:
    text = shown(row.median)
    if row.repeats > 1:
        text += f" ({shown(row.low)} to {shown(row.high)})"
    return text + (f" <sup>{notes.index(row.note) + 1})</sup>" if row.note in notes else "")


def _between_markers(text: str, benchmark: str, content: str, page: Path) -> str:
    """The page with new content between `<!-- NAME -->` and `<!-- end NAME -->`."""
    start, end = f"<!-- {benchmark} -->", f"<!-- end {benchmark} -->"
    pattern = re.compile(f"({re.escape(start)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise DataError(f"'{page}' lacks the lines '{start}' and '{end}'. Put them in.")
    return pattern.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)
