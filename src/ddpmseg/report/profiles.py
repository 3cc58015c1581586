"""Figures of a network without timesteps: what its blocks know, as bars and rows.

They stand where a diffusion model has curves over t and heatmaps of block x t.
"""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ddpmseg.records.cell_grid import CellGrid, best_cell, seed_mean
from ddpmseg.report.canvas import (
    DARK,
    GREY,
    HEAD,
    SMALL,
    axes_at,
    class_labels,
    fitted,
    headline,
    house_style,
    inches_of,
    paper,
    widest,
    write,
)
from ddpmseg.report.charts import BAR, LEFT, Scores, colour_bar, draw_controls, write_numbers
from ddpmseg.report.study import Study

_HIGH = 2.6
_NAME = 1.3
"""Inches that a block's name may take below the axis."""
_CELL = 0.3


@house_style()
def miou_over_blocks(study: Study) -> Figure:
    """Mean miou of every block as a bar, the best one dark, controls as dashed lines."""
    scores = Scores.of(study, lambda grid: grid.metric("miou"))
    width, below = _across(study.grid), _below(study.grid)
    figure = paper(max(LEFT + width + scores.control_room + 0.15, 5.6), HEAD + 0.1 + _HIGH + below)
    title = f"mIoU over blocks: {study.backbone} on {study.dataset}"
    headline(figure, LEFT, title, f"{scores.describe_seeds()}; {scores.describe_best()}")
    draw_bars(axes_at(figure, LEFT, HEAD + 0.1, width, _HIGH), scores, "mIoU (%)")
    return figure


@house_style()
def class_size_over_blocks(study: Study) -> Figure:
    """Mean IoU of the smallest and of the largest classes over the blocks.

    Raises ValueError where there are no groups of classes.
    """
    groups = study.groups
    if not groups.small:
        raise ValueError("fewer than two classes occur, so none are the smallest or the largest")
    width, below = max(_across(study.grid), 2.6), _below(study.grid)
    panels = [
        Scores.of(study, lambda grid, labels=labels: grid.group_iou(labels))
        for labels in (groups.small, groups.large)
    ]
    stride = LEFT + width + max(scores.control_room for scores in panels) + 0.15
    top = HEAD + 0.4
    figure = paper(2 * stride, top + _HIGH + below)
    title = f"Class size: {study.backbone} on {study.dataset}"
    note = f"thirds of {len(groups.ranked)} classes; {panels[0].describe_seeds()}; own scales"
    headline(figure, LEFT, title, note)
    count = len(groups.small)
    for index, (size, scores) in enumerate(zip(("Smallest", "Largest"), panels, strict=True)):
        left = LEFT + index * stride
        which = f"{size} class" if count == 1 else f"{size} {count} classes"
        write(figure, left, HEAD, which + " by area")
        write(figure, left, HEAD + 0.17, scores.describe_best(), width, size=SMALL, color=GREY)
        draw_bars(axes_at(figure, left, top, width, _HIGH), scores, "mean IoU (%)")
    return figure


@house_style()
def per_class_over_blocks(study: Study) -> Figure:
    """IoU of every class that occurs in every block, smallest area first, best blocks framed.

    Raises ValueError where no class occurs.
    """
    ranked, grid = study.groups.ranked, study.grid
    if not ranked:
        raise ValueError("no class occurs in the masks")
    values = seed_mean(grid.iou * 100)[:, 0][:, ranked].T
    labels = class_labels(study.classes)
    names = [fitted(labels[label], SMALL, 1.6) for label in ranked]
    left = max(LEFT, widest(names, SMALL) + 0.2)
    width, height = _across(grid), len(ranked) * 0.19
    figure = paper(max(left + width + BAR, 4.6), HEAD + 0.05 + height + _below(grid))
    title = f"IoU per class: {study.backbone} on {study.dataset}"
    headline(figure, 0.15, title, "smallest area first; the best block of every class is framed")
    axes = axes_at(figure, left, HEAD + 0.05, width, height)
    picture = axes.imshow(
        np.ma.masked_invalid(values),
        cmap="cividis",
        norm=Normalize(0, np.nanmax(values) or 1),
        aspect="auto",
        interpolation="nearest",
    )
    axes.spines[:].set_visible(False)
    axes.set_yticks(range(len(names)), names)
    _name_blocks(axes, grid)
    for row, best in enumerate(np.nanargmax(np.nan_to_num(values, nan=-1), axis=1)):
        if values[row, best] > 0:
            frame = Rectangle((best - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="white")
            frame.set(linewidth=1.3, clip_on=False, zorder=4)
            axes.add_patch(frame)
    if width / len(grid.blocks) >= _CELL - 0.01:
        write_numbers(axes, picture, values)
    colour_bar(figure, picture, left + width + 0.12, HEAD + 0.05, min(height, _HIGH), "IoU (%)")
    return figure


def draw_bars(axes: Axes, scores: Scores, title: str) -> None:
    """A bar per block with its spread over seeds, the best one dark; its value above it."""
    mean, spread = scores.mean[:, 0], scores.spread[:, 0]
    best, _ = best_cell(scores.mean)
    plain, dark = (matplotlib.colormaps["viridis"](share) for share in (0.62, 0.25))
    places = np.arange(len(mean))
    colours = [dark if place == best else plain for place in places]
    axes.bar(places, np.nan_to_num(mean), 0.72, color=colours)
    there = ~np.isnan(spread)
    if there.any():
        axes.errorbar(
            places[there], mean[there], spread[there], fmt="none", ecolor=DARK, elinewidth=0.8,
            capsize=2, capthick=0.8,
        )  # fmt: skip
    highest = np.nanmax(mean + np.nan_to_num(spread))
    axes.set_ylim(0, max(highest, *scores.controls.values(), 0) * 1.12 or 1)
    axes.set_xlim(-0.6, len(mean) - 0.4)
    across, _ = inches_of(axes)
    for place, value in enumerate(mean):
        if np.isnan(value):
            axes.annotate("none", (place, 0), ha="center", va="bottom", size=SMALL, color=GREY)
        elif across / len(mean) >= _CELL - 0.01 or place == best:
            top = value + np.nan_to_num(spread[place])
            axes.annotate(
                f"{value:.1f}", (place, top), xytext=(0, 2), textcoords="offset points",
                ha="center", va="bottom", size=SMALL,
            )  # fmt: skip
    axes.set_ylabel(title)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    _name_blocks(axes, scores.grid)
    draw_controls(axes, scores)


def _name_blocks(axes: Axes, grid: CellGrid) -> None:
    """Number every block below the axis, with its name where it has one."""
    axes.set_xticks(range(len(grid.blocks)), _labels(grid), rotation=90 if _has_names(grid) else 0)
    axes.tick_params(axis="x", length=2)
    axes.set_xlabel(f"block ({grid.numbering.order})")


def _labels(grid: CellGrid) -> list[str]:
    names = grid.numbering.names
    return [
        fitted(f"{b}  {names[b]}" if names.get(b) else str(b), SMALL, _NAME) for b in grid.blocks
    ]


def _has_names(grid: CellGrid) -> bool:
    return any(grid.numbering.names.get(block) for block in grid.blocks)


def _across(grid: CellGrid) -> float:
    """Inches of the axis: room for a number in every bar unless there are very many."""
    return max(1.8, min(0.34 * len(grid.blocks), 8.2))


def _below(grid: CellGrid) -> float:
    """Inches for the names and the title of the axis."""
    return (widest(_labels(grid), SMALL) if _has_names(grid) else 0.12) + 0.46
