"""A score over the values of a setting, drawn from the table of its means."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpmseg.records.runs import Summary
from ddpmseg.report.canvas import (
    HEAD,
    MARGIN,
    SMALL,
    axes_at,
    fitted,
    headline,
    hexadecimal,
    house_style,
    inches_of,
    paper,
    text_width,
)
from ddpmseg.report.charts import BELOW, LEFT, MARKERS, legend_room, put_legend
from ddpmseg.report.colours import cluster_colours
from ddpmseg.tables.table import Table

TITLES = {
    "miou": "mIoU (%)",
    "miou_present": "mIoU of the classes that occur (%)",
    "pixel_accuracy": "pixel accuracy (%)",
}
_LEGEND = 2.6
"""Inches that a label of the legend takes at most."""


@house_style()
def ablation(table: Table, metric: str) -> Figure:
    """A line for every column of a cross table (and set of settings), error bars of one deviation.

    Values that are all numbers lie to scale, others side by side. Lines are a little apart, so that
    no error bar hides another.
    """
    key = table.stub[-1]
    places = _places(list(dict.fromkeys(row.labels[-1] for row in table.rows)))
    lines = {label: line for label, line in _lines(table, places).items() if line}
    width, height = 4.6, 3.2
    names = [fitted(label, SMALL, _LEGEND) for label in lines]
    room = legend_room(names) + 0.15
    figure = paper(LEFT + width + 0.15 + room + MARGIN, HEAD + height + BELOW)
    cells = [cell for line in lines.values() for _, cell in line]
    headline(figure, LEFT, f"{TITLES[metric].removesuffix(' (%)')} by {key}", describe_runs(cells))
    axes = axes_at(figure, LEFT, HEAD, width, height)
    inch = _set_x_axis(axes, places)
    for index, (name, line) in enumerate(zip(names, lines.values(), strict=True)):
        colour = hexadecimal(cluster_colours(len(lines))[index])
        aside = (index - (len(lines) - 1) / 2) * _apart(places, len(lines), inch)
        x, y = [place + aside for place, _ in line], [cell.mean for _, cell in line]
        look = {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
        axes.plot(x, y, label=name, linewidth=1.2, **look)
        spreads = [np.nan if cell.deviation is None else cell.deviation for _, cell in line]
        axes.errorbar(
            x, y, spreads, fmt="none", ecolor=colour, elinewidth=0.8, capsize=2, capthick=0.8
        )
    axes.set(xlabel=key, ylabel=TITLES[metric])
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    put_legend(figure, axes, LEFT + width + 0.15, HEAD)
    return figure


def _lines(table: Table, places: dict[str, float]) -> dict[str, list[tuple[float, Summary]]]:
    """(place, summary) of each line's points from left to right, by its label."""
    lines: dict[str, list[tuple[float, Summary]]] = {}
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            line = lines.setdefault(", ".join([column, *row.labels[:-1]]), [])
            if cell is not None:
                line.append((places[row.labels[-1]], cell))
    return {label: sorted(line, key=lambda point: point[0]) for label, line in lines.items()}


def _places(values: Sequence[str]) -> dict[str, float]:
    """Where each value lies on the x axis."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(index) for index, value in enumerate(values)}


def _apart(places: dict[str, float], lines: int, inch: float) -> float:
    """How far lines lie from each other: so that those of neighbouring values never mix."""
    gap = np.diff(sorted(places.values())).min(initial=np.inf)
    return min(0.07 / inch, 0.5 * gap / lines)


def _set_x_axis(axes: Axes, places: dict[str, float]) -> float:
    """Name the values from left to right, but for those that would touch the one before.

    Returns how many inches one unit takes.
    """
    low, high = min(places.values()), max(places.values())
    margin = 0.04 * (high - low) or 0.5
    axes.set_xlim(low - margin, high + margin)
    inch = inches_of(axes)[0] / (high - low + 2 * margin)
    shown: list[str] = []
    end = -np.inf
    for value in sorted(places, key=lambda value: places[value]):
        half = text_width(value, SMALL) / 2
        if places[value] * inch - half >= end:
            shown.append(value)
            end = places[value] * inch + half + 0.06
    axes.set_xticks([places[value] for value in shown], shown)
    return float(inch)


def describe_runs(cells: Sequence[Summary]) -> str:
    """What the numbers of a figure are means of."""
    counts = [cell.runs or 0 for cell in cells]
    if max(counts) <= 1:
        return "one run each"
    upto = "up to " if len(set(counts)) > 1 else ""
    return f"mean ± standard deviation over {upto}{max(counts)} runs"
