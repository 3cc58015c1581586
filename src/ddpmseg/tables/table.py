"""Tables of means, and their text in Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ddpmseg.io.csv_cells import guarded
from ddpmseg.records.runs import DASH, Summary

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", DASH: "--"}
)


@dataclass(frozen=True)
class Row:
    """labels: one for each of the table's `stub`. cells: one for each of its `columns`."""

    labels: tuple[str, ...]
    cells: tuple[Summary | None, ...]


@dataclass(frozen=True)
class Table:
    """stub: what the labels of a row are. columns: what the cells of a row are."""

    stub: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def as_markdown(table: Table) -> str:
    """Percent, mean ± sample standard deviation (runs); a dash where there is nothing."""
    lines = [
        [*table.stub, *table.columns],
        ["---"] * len(table.stub) + ["---:"] * len(table.columns),
        *row_texts(table.rows),
    ]
    cells = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def as_latex(table: Table) -> str:
    """The same as a tabular; it needs the package booktabs."""
    lines = [
        " & ".join(_latex(text) for text in line) + r" \\"
        for line in [[*table.stub, *table.columns], *row_texts(table.rows)]
    ]
    alignment = "l" * len(table.stub) + "r" * len(table.columns)
    body = [lines[0], r"\midrule", *lines[1:]]
    rows = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", *body, r"\bottomrule"]
    return "\n".join([*rows, r"\end{tabular}"]) + "\n"


def as_csv(table: Table) -> str:
    """A line for every number: labels, column, mean and deviation in percent, runs.

    Deviation and runs are empty where they are not known. Text is written as by `guarded`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*map(guarded, table.stub), "column", "mean", "deviation", "runs"])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell is not None:
                deviation = "" if cell.deviation is None else f"{cell.deviation:.4f}"
                numbers = (f"{cell.mean:.4f}", deviation, cell.runs or "")
                writer.writerow([*map(guarded, row.labels), guarded(column), *numbers])
    return text.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
}


def row_texts(rows: Iterable[Row]) -> list[list[str]]:
    """Labels and numbers; a first label that the row above has too is not repeated."""
    texts, above = [], ""
    for row in rows:
        first, *rest = row.labels
        shown = "" if rest and first == above else first
        texts.append([shown, *rest, *(str(cell or DASH) for cell in row.cells)])
        above = first
    return texts


def _latex(text: str) -> str:
    """A minus before a number is one, and no hyphen."""
    return re.sub(r"^-(?=\d)", "$-$", text.translate(_LATEX))
