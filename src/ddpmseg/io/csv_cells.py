"""Text in CSV files as spreadsheets show it: a class named '=1+1' must be no formula to them."""

import re
from typing import TypeVar

Cell = TypeVar("Cell")

FORMULA = re.compile(r"'*(?:[=+@\t\r]|-.)")
"""Beginnings that a spreadsheet computes, and what `guarded` makes of them; a dash is a dash."""


def guarded(cell: Cell) -> Cell | str:
    """The cell of a table as it is written: text that begins a formula gets an apostrophe before.

    Spreadsheets take such a cell for text. Numbers stay as they are, in text too.
    """
    if not isinstance(cell, str) or not FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def unguarded(text: str) -> str:
    """The text that `guarded` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
