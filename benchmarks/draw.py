"""From the newest rows to the tables of `performance.md` and its figures."""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import FIGURES
from benchmarks.record import Row, newest, read
from ddpmseg.errors import DataError
from ddpmseg.files import written_whole

PAGE = "performance.md"
ON_POINTS = " = "
"""Part of the variant of a row that is a point of a curve; it is drawn, not listed."""

log = logging.getLogger(__name__)


def draw(results: Path, docs: Path) -> None:
    """Fill the tables of `docs/performance.md` and write `docs/performance_*.png`.

    Raises DataError where there are no results or the page lacks a marker.
    """
    rows, page = newest(read(results)), docs / PAGE
    if not page.is_file():
        raise DataError(f"there is no '{page}'. Name the folder that holds it with --docs.")
    text = page.read_text()
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        some = [row for row in rows if row.benchmark == benchmark]
        text = _between_markers(text, benchmark, tables(some), page)
        if benchmark in FIGURES:
            path = docs / f"performance_{benchmark}.png"
            with written_whole(path) as unfinished:
                FIGURES[benchmark](some).savefig(unfinished, format="png")
            log.info("%s", path)
    with written_whole(page) as unfinished:
        unfinished.write_text(text)
    log.info("%s", page)


def tables(rows: Sequence[Row]) -> str:
    """A table for every case and machine: a line per quantity, a column per variant."""
    cases = dict.fromkeys((row.case, row.machine) for row in rows)
    return "\n\n".join(
        _table([row for row in rows if (row.case, row.machine) == case]) for case in cases
    )


def _table(rows: Sequence[Row]) -> str:
    first = rows[0]
    listed = [row for row in rows if ON_POINTS not in row.variant]
    variants = list(dict.fromkeys(row.variant for row in listed))
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


def _cell(row: Row, notes: Sequence[str]) -> str:
    text = shown(row.median)
    if row.repeats > 1:
        text += f" ({shown(row.low)} to {shown(row.high)})"
    return text + (f" <sup>{notes.index(row.note) + 1})</sup>" if row.note else "")


def shown(value: float) -> str:
    """Three significant digits, without an exponent unless the value is under a thousandth."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _between_markers(text: str, benchmark: str, content: str, page: Path) -> str:
    """The page with new content between `<!-- NAME -->` and `<!-- end NAME -->`."""
    start, end = f"<!-- {benchmark} -->", f"<!-- end {benchmark} -->"
    pattern = re.compile(f"({re.escape(start)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise DataError(f"'{page}' lacks the lines '{start}' and '{end}'. Put them in.")
    return pattern.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)
