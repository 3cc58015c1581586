"""Figures of the measurements, in the style of the figures of a study."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.record import Row, shown
from ddpmseg.report.canvas import (
    DARK,
    GREY,
    HEAD,
    MARGIN,
    SMALL,
    axes_at,
    headline,
    house_style,
    paper,
    widest,
    write,
)
from ddpmseg.report.charts import BELOW, LEFT, put_legend
from ddpmseg.report.colours import CLUSTER_COLOURS

ROW = 0.27
"""Inches of a bar with its gap."""
NARROWEST = 5.0
"""Inches of a figure with a headline."""
PLAIN, OURS = GREY, CLUSTER_COLOURS[0]


@house_style()
def extraction(rows: Sequence[Row]) -> Figure:
    """Seconds of a forward pass, a bar for every variant, panels of their own for all cases."""
    wanted = [row for row in rows if row.quantity.startswith("forward pass of one")]
    return _bars(wanted, "Extraction", "seconds per (image, timestep)")


@house_style()
def head(rows: Sequence[Row]) -> Figure:
    """Seconds of training an ensemble, a bar for every variant."""
    wanted = [row for row in rows if row.quantity == "training"]
    return _bars(wanted, "Training of an ensemble", "seconds")


@house_style()
def grid(rows: Sequence[Row]) -> Figure:
    """Seconds of a whole grid, a bar for either way."""
    wanted = [row for row in rows if row.quantity.startswith("grid of")]
    return _bars(wanted, "Grid of (block, t)", "seconds")


@house_style()
def memory(rows: Sequence[Row]) -> Figure:
    """Peak memory over labelled images in log-log scale, a panel for every case."""
    cases = _cases([row for row in rows if row.unit == "GB"])
    gap = widest(("plain", "ours"), SMALL) + 0.1
    figure, corners = _panels(len(cases), len(cases), (3.1, 2.4), gap)
    headline(figure, LEFT, "Peak memory above the loaded network", _machine(rows))
    for corner, (case, some) in zip(corners, cases.items(), strict=True):
        axes = axes_at(figure, *corner, 3.1, 2.4)
        for variant, colour in (("plain", PLAIN), ("ours", OURS)):
            points = [row for row in some if row.variant == variant]
            counts = [int(row.quantity.split()[0]) for row in points]
            values = [row.median for row in points]
            axes.plot(counts, values, "o-", color=colour, markersize=3, linewidth=1.2)
            axes.annotate(
                variant, (counts[-1], values[-1]), xytext=(4, 0), textcoords="offset points",
                va="center", size=SMALL, color=colour,
            )  # fmt: skip
        _log_axes(axes, sorted({int(row.quantity.split()[0]) for row in some}))
        axes.set(xlabel="labelled images", ylabel="GB")
        axes.set_title(case, loc="left")
    return figure


@house_style()
def scaling(rows: Sequence[Row]) -> Figure:
    """Seconds of each stage and peak memory along every axis of the last case, log-log scale."""
    last = (rows[-1].case, rows[-1].machine)
    points = [row for row in rows if " = " in row.variant and (row.case, row.machine) == last]
    parts: dict[str, list[Row]] = {}
    for row in points:
        parts.setdefault(row.variant.split(" = ")[0], []).append(row)
    # One place more than there are axes, for the legend.
    figure, corners = _panels(len(parts) + 1, 3, (1.75, 1.6), 0.1)
    headline(figure, LEFT, "Time and memory along each axis", f"{last[0]}; {last[1]}")
    quantities = list(dict.fromkeys(row.quantity for row in points))
    for corner, (axis, some) in zip(corners, parts.items(), strict=False):
        axes = axes_at(figure, *corner, 1.75, 1.6)
        for quantity, colour in zip(quantities, CLUSTER_COLOURS, strict=False):
            curve = [row for row in some if row.quantity == quantity]
            sizes = [int(row.variant.split(" = ")[1]) for row in curve]
            unit = curve[0].unit
            axes.errorbar(
                sizes, [row.median for row in curve], _spread(curve), fmt="o-", color=colour,
                markersize=3, linewidth=1.2, elinewidth=0.7, label=f"{quantity} ({unit})",
            )  # fmt: skip
        _log_axes(axes, sorted({int(row.variant.split(" = ")[1]) for row in some}))
        axes.set_xlabel(axis)
    put_legend(figure, figure.axes[0], *corners[-1])
    return figure


@house_style()
def shares(rows: Sequence[Row]) -> Figure:
    """Seconds of the stages of a program end to end, and the floor of its forward passes below."""
    cases = {
        f"{case}: {variant}": [row for row in some if row.variant == variant and row.unit == "s"]
        for case, some in _cases(rows).items()
        for variant in dict.fromkeys(row.variant for row in some)
    }
    cases = {name: some for name, some in cases.items() if some}
    stages = [row.quantity for row in next(iter(cases.values())) if "floor" not in row.quantity]
    labels = ["all stages", "floor, 16 bits", "floor, 32 bits"]
    left, panel = widest(labels, SMALL) + 0.35, 3 * ROW + 0.75
    figure = paper(left + 5.2 + 1.6, HEAD + len(cases) * panel + 0.1)
    note = f"{_machine(rows)}; floor: the forward passes at the rate of a matrix product"
    headline(figure, left, "Where the time goes", note)
    for index, (name, some) in enumerate(cases.items()):
        top = HEAD + index * panel + 0.2
        write(figure, left, top - 0.2, name)
        axes = axes_at(figure, left, top, 5.2, 3 * ROW)
        values = {row.quantity: row.median for row in some}
        start = 0.0
        for stage, colour in zip(stages, CLUSTER_COLOURS, strict=False):
            axes.barh(0, values[stage], 0.7, start, color=colour, label=stage)
            start += values[stage]
        for place, bits in ((1, "16 bits"), (2, "32 bits")):
            floors = [v for quantity, v in values.items() if quantity.endswith(f"floor in {bits}")]
            axes.barh(place, sum(floors), 0.7, color=GREY)
        axes.set_yticks(range(3), labels)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        if not index:
            axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "extraction": extraction,
    "head": head,
    "memory": memory,
    "grid": grid,
    "scaling": scaling,
    "shares": shares,
}


def _cases(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by case, with the machine where there are several."""
    several = len({row.machine for row in rows}) > 1
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(f"{row.case}, {row.machine}" if several else row.case, []).append(row)
    return cases


def _machine(rows: Sequence[Row]) -> str:
    machines = dict.fromkeys(row.machine for row in rows)
    return next(iter(machines)) if len(machines) == 1 else f"{len(machines)} machines"


def _bars(rows: Sequence[Row], title: str, axis: str) -> Figure:
    cases = _cases(sorted(rows, key=lambda row: row.variant != "plain"))
    left = widest((row.variant for row in rows), SMALL) + 0.35
    heights = [len(some) * ROW for some in cases.values()]
    figure = paper(left + 5.0 + 1.1, HEAD + sum(heights) + len(cases) * (BELOW + 0.25))
    headline(figure, left, title, f"{_machine(rows)}; medians, lowest to highest")
    top = HEAD + 0.2
    for (case, some), height in zip(cases.items(), heights, strict=True):
        write(figure, left, top - 0.2, case)
        axes = axes_at(figure, left, top, 5.0, height)
        for place, row in enumerate(some):
            colour = PLAIN if row.variant == "plain" else OURS
            axes.barh(place, row.median, 0.7, color=colour, xerr=_spread([row]), ecolor=DARK)
            about = "about " if row.note.startswith("extrapolated") else ""
            axes.annotate(
                f"{about}{shown(row.median)} s", (row.high, place), xytext=(4, 0),
                textcoords="offset points", va="center", size=SMALL, color=DARK,
            )  # fmt: skip
        axes.set_yticks(range(len(some)), [row.variant for row in some])
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        top += height + BELOW + 0.25
    return figure


def _panels(
    count: int, columns: int, size: tuple[float, float], gap: float
) -> tuple[Figure, list[tuple[float, float]]]:
    """A figure with room for `count` axes and their upper left corners; all in inches."""
    width, height = size
    stride, drop = LEFT + width + gap, height + BELOW + 0.1
    across = max(min(count, columns) * stride, NARROWEST) + MARGIN
    figure = paper(across, HEAD + 0.25 + -(-count // columns) * drop)
    places = [divmod(index, columns) for index in range(count)]
    return figure, [(LEFT + c * stride, HEAD + 0.25 + r * drop) for r, c in places]


def _log_axes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(size) for size in sizes])
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.3, high * 1.3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    # The figures parse no mathematics, so powers of ten would show as source.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)


def _spread(rows: Sequence[Row]) -> np.ndarray:
    """Distances of the lowest and of the highest from the median, (2, n)."""
    return np.array([[row.median - row.low, row.high - row.median] for row in rows]).T
