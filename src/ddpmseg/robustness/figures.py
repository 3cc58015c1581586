"""Robustness drawn: scores over the severity (paper, figure 6), drops by type, examples."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpmseg.data.corruptions import Corruption, level
from ddpmseg.records.runs import Summary
from ddpmseg.report.canvas import (
    DPI,
    HEAD,
    MARGIN,
    SMALL,
    axes_at,
    desk,
    fitted,
    headline,
    hexadecimal,
    house_style,
    paper,
    widest,
    write,
)
from ddpmseg.report.charts import BELOW, LEFT, MARKERS, legend_room, put_legend
from ddpmseg.report.colours import cluster_colours
from ddpmseg.robustness.scores import Line, severities, types

_LEGEND = 2.6
"""Inches that a label of the legend takes at most."""
_GAP = 6 / DPI


@house_style()
def robustness_figure(lines: Sequence[Line]) -> Figure:
    """Left mIoU over the severity, its mean over types, a line for each method; right the relative
    drop of every type, the markers growing with the severity."""
    steps, names = severities(lines), types(lines)
    colours = [hexadecimal(colour) for colour in cluster_colours(len(lines))]
    shown = [fitted(line.label, SMALL, _LEGEND) for line in lines]
    width = max(2.6, 0.75 * (1 + len(steps)))
    drops = LEFT + width + 0.35 + widest(names, SMALL)
    row = 0.1 * len(lines) + 0.1
    height = max(2.6, row * len(names))
    right = drops + 3.4 + 0.15
    figure = paper(right + legend_room(shown) + MARGIN, HEAD + height + BELOW)
    kinds = f"{len(names)} types" if len(names) > 1 else names[0]
    sizes = f", markers from small to large: {', '.join(map(level, steps))}"
    note = f"left: mean over {kinds}; right: each type{sizes if len(steps) > 1 else ''}"
    headline(figure, LEFT, "mIoU on corrupted test images", note)
    scores = axes_at(figure, LEFT, HEAD, width, min(height, 3.4))
    for index, (line, name) in enumerate(zip(lines, shown, strict=True)):
        cells = [line.clean(), *(line.miou(step) for step in steps)]
        _curve(scores, cells, colours[index], MARKERS[index % len(MARKERS)], name)
    scores.set_xticks(range(1 + len(steps)), ["clean", *map(level, steps)])
    scores.set(xlim=(-0.3, len(steps) + 0.3), ylabel="mIoU (%)")
    scores.set_ylim(bottom=0)
    scores.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes = axes_at(figure, drops, HEAD, 3.4, height)
    for index, line in enumerate(lines):
        aside = (index - (len(lines) - 1) / 2) * 0.1 / row
        marker = MARKERS[index % len(MARKERS)]
        for place, name in enumerate(names):
            cells = [line.drop(step, name) for step in steps]
            _range(axes, cells, place + aside, colours[index], marker)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="relative drop of the mIoU (%)")
    axes.axvline(0, color="#b0b0b0", linewidth=0.6, zorder=0.5)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    for both in (scores, axes):
        both.set_axisbelow(True)
    put_legend(figure, scores, right, HEAD)
    return figure


@house_style()
def examples_figure(
    clean: UInt8[np.ndarray, "s s 3"], versions: Mapping[Corruption, UInt8[np.ndarray, "s s 3"]]
) -> Figure:
    """One image under every type, from left to right at every severity; the clean one first."""
    steps = sorted({one.severity for one in versions})
    names = list(dict.fromkeys(one.type for one in versions))
    panels = {"clean": [clean]} | {
        name: [versions[Corruption(name, step)] for step in steps] for name in names
    }
    # Whole pixels of the PNG for every pixel of the picture.
    tile = max(1, 128 // len(clean)) * len(clean) / DPI
    panel = max(len(steps) * (tile + 2 / DPI), widest(panels, SMALL + 0.5))
    across = max(1, min(len(panels), int(7.6 / (panel + _GAP))))
    down = -(-len(panels) // across)
    stride = tile + 0.24
    width = max(2 * MARGIN + across * (panel + 2 * _GAP), 4)
    figure = paper(width, HEAD + down * stride + MARGIN)
    shown = ", ".join(map(level, steps))
    note = f"from left to right {shown}" if len(steps) > 1 else shown
    headline(figure, MARGIN, "Corruptions", note)
    table = desk(figure)
    for index, (name, pictures) in enumerate(panels.items()):
        left = round((MARGIN + index % across * (panel + 2 * _GAP)) * DPI) / DPI
        top = round((HEAD + index // across * stride + 0.18) * DPI) / DPI
        write(figure, left, top - 0.04, name, va="bottom", size=SMALL + 0.5)
        for column, picture in enumerate(pictures):
            x = left + column * (tile + 2 / DPI)
            place = (x, x + tile, top + tile, top)
            table.imshow(picture, interpolation="nearest", aspect="auto", extent=place)
    return figure


def _curve(
    axes: Axes, cells: Sequence[Summary | None], colour: str, marker: str, name: str
) -> None:
    there = [(x, cell.mean, cell.deviation or 0) for x, cell in enumerate(cells) if cell]
    x, y, spread = zip(*there, strict=True)
    axes.plot(x, y, label=name, color=colour, marker=marker, markersize=4, linewidth=1.2)
    if any(spread):
        axes.errorbar(
            x, y, spread, fmt="none", ecolor=colour, elinewidth=0.8, capsize=2, capthick=0.8
        )


def _range(axes: Axes, cells: Sequence[Summary | None], y: float, colour: str, marker: str) -> None:
    """The drops of a type from the weakest to the strongest severity."""
    there = [(step, cell.mean) for step, cell in enumerate(cells) if cell]
    axes.plot([x for _, x in there], [y] * len(there), color=colour, linewidth=0.7, alpha=0.6)
    for step, x in there:
        axes.plot(x, y, color=colour, marker=marker, markersize=2 + 1.3 * step, linewidth=0)
