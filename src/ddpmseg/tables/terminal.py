"""Tables as aligned text for a terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ddpmseg.tables.table import Table, row_texts

WIDTH = 100
"""Characters that a line takes at most."""
_LABEL = 32
"""Characters of a label; more where two would look alike."""
_GAP = "  "


@dataclass(frozen=True)
class _Column:
    heading: list[str]
    texts: list[str]
    right: bool

    @property
    def width(self) -> int:
        return max(map(len, (*self.heading, *self.texts)), default=0)

    def line(self, text: str) -> str:
        return text.rjust(self.width) if self.right else text.ljust(self.width)


def as_text(table: Table, width: int = WIDTH) -> str:
    """Percent, mean ± sample standard deviation (runs); a dash where there is nothing.

    A table wider than `width` characters is broken into parts, one below the other. Each repeats
    the labels of the rows, or, where these leave no room, their numbers.
    """
    rows = [list(texts) for texts in zip(*row_texts(table.rows), strict=True)]
    stub = [_labels(*column) for column in zip(table.stub, rows, strict=False)]
    headings = shortened(table.columns, 3 * _LABEL)
    cells = [
        _numbers(headings[title], texts)
        for title, texts in zip(table.columns, rows[len(stub) :], strict=True)
    ]
    widest = max((column.width for column in cells), default=0)
    if _room(stub) + len(_GAP) + widest > width and _room([*stub, *cells]) > width:
        number = _Column(["#"], [str(index + 1) for index in range(len(table.rows))], True)
        return "\n".join(_lines(part) for part in _parts([number], [*stub, *cells], width))
    return "\n".join(_lines(part) for part in _parts(stub, cells, width))


def shortened(texts: Iterable[str], room: int) -> dict[str, str]:
    """Each text cut in its middle to `room` characters, or to more where two would look alike."""
    texts = list(dict.fromkeys(texts))
    for width in range(room, max(map(len, texts), default=0)):
        cut = {text: _cut(text, width) for text in texts}
        if len(set(cut.values())) == len(texts):
            return cut
    return {text: text for text in texts}


def _parts(repeated: list[_Column], columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """As many columns as fit, side by side, behind the repeated ones; at least one."""
    parts = [list(repeated)]
    for column in columns:
        if len(parts[-1]) > len(repeated) and _room([*parts[-1], column]) > width:
            parts.append(list(repeated))
        parts[-1].append(column)
    return parts


def _lines(columns: Sequence[_Column]) -> str:
    height = max(len(column.heading) for column in columns)
    above = [[""] * (height - len(column.heading)) + column.heading for column in columns]
    rule = ["-" * column.width for column in columns]
    below = [column.texts for column in columns]
    rows = [*zip(*above, strict=True), rule, *zip(*below, strict=True)]
    lines = [
        _GAP.join(column.line(text) for column, text in zip(columns, row, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _labels(heading: str, texts: Sequence[str]) -> _Column:
    short = shortened(texts, _LABEL)
    return _Column([heading], [short[text] for text in texts], False)


def _numbers(heading: str, texts: list[str]) -> _Column:
    """The heading in as many lines as make it no wider than its numbers, where words allow it."""
    room = max([*map(len, texts), *map(len, heading.split())], default=1)
    lines = textwrap.wrap(heading, max(1, room), break_long_words=False, break_on_hyphens=False)
    return _Column(lines or [""], texts, True)


def _room(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * max(0, len(columns) - 1)


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = width * 2 // 3  # names differ at their ends more often than at their beginnings
    return text[: width - 1 - end] + "…" + text[len(text) - end :]
