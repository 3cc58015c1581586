"""Curves over t and heatmaps of block x t, drawn into given axes.

Values are means over seeds in percent; error bars are sample standard deviations over seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator

from ddpmseg.records.cell_grid import CellGrid, best_cell, seed_mean, seed_spread
from ddpmseg.report.canvas import DARK, GREY, SMALL, axes_at, fitted, inches_of, widest
from ddpmseg.report.study import Study

Percent = Float64[np.ndarray, "b t"]
Metric = Callable[[CellGrid], Float64[np.ndarray, "b t s"]]

BLOCK_AXIS, TIME_AXIS = "block (0 = deepest)", "timestep t"
LEFT, BELOW = 0.62, 0.5
"""Inches for the ticks and the title of an axis."""
BAR = 0.85
"""Inches for a colour bar with its ticks and title."""
_LEGEND_ROWS = 20
_NUMBER = (0.29, 0.14)
"""Inches that a number in a cell needs."""
MARKERS = "os^Dv"


@dataclass(frozen=True, eq=False)
class Scores:
    """What one panel shows: means and spreads of a study, the best cells of its controls."""

    grid: CellGrid
    mean: Percent
    spread: Percent
    controls: dict[str, float]

    @classmethod
    def of(cls, study: Study, metric: Metric) -> "Scores":
        values = metric(study.grid) * 100
        controls = {
            study.control_label(name): float(np.nanmax(seed_mean(metric(grid) * 100)))
            for name, grid in study.controls.items()
        }
        return cls(study.grid, seed_mean(values), seed_spread(values), controls)

    def describe_best(self) -> str:
        row, column = best_cell(self.mean)
        spread = self.spread[row, column]
        margin = "" if np.isnan(spread) else f" ± {spread:.1f}"
        place = self.grid.numbering.cell(self.grid.blocks[row], self.grid.timesteps[column])
        return f"best: {place} ({self.mean[row, column]:.1f}{margin})"

    def describe_seeds(self) -> str:
        """Of how many seeds these are means."""
        if np.isnan(self.spread).all():
            return "one seed"
        counts = np.isfinite(self.grid.metric("miou")).sum(2)
        upto = "up to " if np.unique(counts[counts > 0]).size > 1 else ""
        return f"mean ± standard deviation over {upto}{counts.max()} seeds"

    def control_labels(self) -> list[str]:
        return [f"{fitted(name, SMALL, 1.2)} {value:.1f}" for name, value in self.controls.items()]

    @property
    def control_room(self) -> float:
        """Inches that the labels of the controls take beside the axes."""
        return widest(self.control_labels(), SMALL) + 0.1 if self.controls else 0.0


def draw_curves(axes: Axes, scores: Scores, title: str) -> None:
    """A curve per block, its best cell ringed; controls as dashed lines, labelled on the right."""
    times = np.array(scores.grid.timesteps)
    size = 3 if len(times) <= 30 else 1.5
    for row, look in enumerate(_block_looks(len(scores.grid.blocks))):
        mean, spread = scores.mean[row], scores.spread[row]
        block = f"block {scores.grid.blocks[row]}"
        axes.plot(times, mean, label=block, markersize=size, linewidth=1.2, **look)
        there = ~np.isnan(spread)
        if there.any():
            axes.errorbar(
                times[there], mean[there], spread[there], fmt="none", ecolor=look["color"],
                elinewidth=0.7, capsize=1.5, capthick=0.7,
            )  # fmt: skip
    row, column = best_cell(scores.mean)
    axes.plot(
        times[column], scores.mean[row, column], "o", markersize=9, markerfacecolor="none",
        markeredgecolor=DARK, markeredgewidth=1, zorder=5, label="best",
    )  # fmt: skip
    highest = np.nanmax(scores.mean + np.nan_to_num(scores.spread))
    axes.set_ylim(0, max(highest, *scores.controls.values(), 0) * 1.06 or 1)
    span = int(times[-1] - times[0])
    axes.set_xlim(times[0] - (0.02 * span or 1), times[-1] + (0.02 * span or 1))
    axes.xaxis.set_major_locator(
        MaxNLocator(6, steps=[1, 2, 5, 10], integer=True)
        if span
        else FixedLocator(scores.grid.timesteps)
    )
    axes.set_xlabel(TIME_AXIS)
    axes.set_ylabel(title)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    draw_controls(axes, scores)


def draw_controls(axes: Axes, scores: Scores) -> None:
    """The best cell of every control as a dashed line, labelled on the right."""
    room = axes.get_ylim()[1]
    _, inches = inches_of(axes)
    values = list(scores.controls.values())
    places = spread_out([value / room * inches for value in values], SMALL / 72 * 1.25)
    for value, text, place in zip(values, scores.control_labels(), places, strict=True):
        axes.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
        axes.annotate(
            text, (1, place / inches), xycoords="axes fraction", xytext=(4, 0),
            textcoords="offset points", va="center", size=SMALL, color=DARK, annotation_clip=False,
        )  # fmt: skip


def spread_out(places: Sequence[float], apart: float) -> list[float]:
    """The places in their order, moved up just as far as leaves them `apart` from each other."""
    moved, floor = list(places), -np.inf
    for index in np.argsort(places, kind="stable"):
        moved[index] = floor = max(places[index], floor + apart)
    return moved


def _block_looks(count: int) -> list[dict]:
    # The last of viridis is too light a yellow for lines on white.
    shades = np.linspace(0, 0.87, count) if count > 1 else np.array([0.3])
    colours = matplotlib.colormaps["viridis"](shades)
    return [
        {"color": tuple(colour.tolist()), "marker": MARKERS[index % len(MARKERS)]}
        for index, colour in enumerate(colours)
    ]


def curve_labels(grid: CellGrid) -> list[str]:
    """What `draw_curves` lists in a legend."""
    return [*(f"block {block}" for block in grid.blocks), "best"]


def legend_room(labels: Sequence[str]) -> float:
    """Inches across that `put_legend` takes."""
    columns = -(-len(labels) // _LEGEND_ROWS)
    return columns * (widest(labels, SMALL) + 0.42)


def put_legend(figure: Figure, axes: Axes, left: float, top: float) -> None:
    """List the curves of `axes` from (left, top) down, in inches."""
    across, down = figure.get_size_inches()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(left / across, 1 - top / down),
        ncols=-(-len(handles) // _LEGEND_ROWS), handlelength=2.2, columnspacing=1,
    )  # fmt: skip


def draw_heatmap(axes: Axes, grid: CellGrid, mean: Percent) -> AxesImage:
    """Colours from 0 to the best value, the best cell framed, missing cells hatched.

    Rows are blocks from the bottom up. Large enough cells hold their value. The frame is left
    out where all values are 0.
    """
    axes.set_facecolor("#f0f0f0")
    axes.patch.set(hatch="/////", edgecolor="#b0b0b0", linewidth=0)
    picture = axes.imshow(
        np.ma.masked_invalid(mean),
        cmap="cividis",
        norm=Normalize(0, np.nanmax(mean) or 1),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    axes.spines[:].set_visible(False)
    across, down = inches_of(axes)
    for axis, values, room, needed in (
        (axes.xaxis, grid.timesteps, across, widest(map(str, grid.timesteps), SMALL) + 0.1),
        (axes.yaxis, grid.blocks, down, SMALL / 72 * 1.2),
    ):
        # Axes of one size differ in the last digits.
        step = -(-len(values) // max(1, int(room / needed + 1e-6)))
        shown = range(0, len(values), step)
        axis.set_ticks(list(shown), [str(values[index]) for index in shown])
    row, column = best_cell(mean)
    if mean[row, column] > 0:
        # The best cell is the brightest of all; the white line sets it off from dark neighbours.
        frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black")
        frame.set(linewidth=1.2, clip_on=False, zorder=4, joinstyle="miter")
        frame.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
        axes.add_patch(frame)
    if across / len(grid.timesteps) >= _NUMBER[0] and down / len(grid.blocks) >= _NUMBER[1]:
        write_numbers(axes, picture, mean)
    return picture


def write_numbers(axes: Axes, picture: AxesImage, mean: Percent) -> None:
    """The values of a picture, in black or white."""
    for (row, column), value in np.ndenumerate(mean):
        if not np.isnan(value):
            red, green, blue, _ = picture.to_rgba(np.array([value]))[0]
            # Black or white, whichever is easier to read.
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axes.text(
                column, row, f"{value:.1f}", ha="center", va="center_baseline", size=SMALL - 0.5,
                color="black" if bright else "white",
            )  # fmt: skip


def colour_bar(
    figure: Figure, picture: AxesImage, left: float, top: float, height: float, title: str
) -> None:
    """A narrow colour bar with the upper left corner at (left, top), in inches."""
    bar = figure.colorbar(picture, cax=axes_at(figure, left, top, 0.1, height), label=title)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=2)
