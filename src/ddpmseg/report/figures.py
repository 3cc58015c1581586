"""Figures of a study: what its numbers say (paper, figures 2 and 3), and all figures as files."""

from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ddpmseg.records.cell_grid import best_cell, seed_mean
from ddpmseg.report.canvas import (
    GREY,
    HEAD,
    MARGIN,
    SMALL,
    axes_at,
    class_labels,
    headline,
    house_style,
    paper,
    save_figure,
    write,
)
from ddpmseg.report.charts import (
    BAR,
    BELOW,
    BLOCK_AXIS,
    LEFT,
    TIME_AXIS,
    Percent,
    Scores,
    colour_bar,
    curve_labels,
    draw_curves,
    draw_heatmap,
    legend_room,
    put_legend,
)
from ddpmseg.report.panels import cluster_panels, component_panels, has_masks, mask_panels
from ddpmseg.report.profiles import class_size_over_blocks, miou_over_blocks, per_class_over_blocks
from ddpmseg.report.study import Study


@house_style()
def miou_over_timesteps(study: Study) -> Figure:
    """Mean miou against t, a curve per block (paper, figure 2)."""
    scores = Scores.of(study, lambda grid: grid.metric("miou"))
    width, height = 5.4, 3.5
    beside = LEFT + width + scores.control_room + 0.1
    figure = paper(beside + legend_room(curve_labels(study.grid)) + MARGIN, HEAD + height + BELOW)
    title = f"mIoU over timesteps: {study.backbone} on {study.dataset}"
    headline(figure, LEFT, title, f"{scores.describe_seeds()}; {scores.describe_best()}")
    axes = axes_at(figure, LEFT, HEAD, width, height)
    draw_curves(axes, scores, "mIoU (%)")
    put_legend(figure, axes, beside, HEAD)
    return figure


@house_style()
def miou_heatmap(study: Study) -> Figure:
    """Mean miou of every cell, deepest block at the bottom, in numbers where there is room."""
    scores = Scores.of(study, lambda grid: grid.metric("miou"))
    blocks, times = scores.mean.shape
    across, down = min(0.42, 7.8 / times), min(0.3, 6.0 / blocks)
    width, height = max(across * times, 1.6), max(down * blocks, 1.6)
    figure = paper(max(LEFT + width + BAR, 4.6), HEAD + height + BELOW)
    title = f"mIoU of cells: {study.backbone} on {study.dataset}"
    headline(figure, LEFT, title, scores.describe_best() + _missing(scores.mean))
    axes = axes_at(figure, LEFT, HEAD, width, height)
    picture = draw_heatmap(axes, study.grid, scores.mean)
    axes.set(xlabel=TIME_AXIS, ylabel=BLOCK_AXIS)
    colour_bar(figure, picture, LEFT + width + 0.12, HEAD, height, "mIoU (%)")
    return figure


@house_style()
def class_size(study: Study) -> Figure:
    """Mean IoU of the smallest and of the largest classes (paper, figure 3), curves and heatmaps.

    Raises ValueError where there are no groups of classes.
    """
    groups, grid = study.groups, study.grid
    if not groups.small:
        raise ValueError("fewer than two classes occur, so none are the smallest or the largest")
    small, large = (
        Scores.of(study, lambda grid, labels=labels: grid.group_iou(labels))
        for labels in (groups.small, groups.large)
    )
    width, high, low = 3.7, 2.7, 2.3
    stride = LEFT + width + max(small.control_room, large.control_room, BAR - 0.2) + 0.1
    top = HEAD + 0.4
    below = top + high + BELOW + 0.15
    figure = paper(2 * stride + legend_room(curve_labels(grid)) + MARGIN, below + low + BELOW)
    title = f"Class size: {study.backbone} on {study.dataset}"
    seeds = small.describe_seeds()
    note = f"thirds of {len(groups.ranked)} classes; {seeds}; every panel has its own scale"
    headline(figure, LEFT, title, note + _missing(small.mean))
    for index, (size, scores) in enumerate((("Smallest", small), ("Largest", large))):
        left = LEFT + index * stride
        count = len(groups.small)
        which = f"{size} class" if count == 1 else f"{size} {count} classes"
        write(figure, left, HEAD, which + " by area")
        write(figure, left, HEAD + 0.17, scores.describe_best(), size=SMALL, color=GREY)
        curves = axes_at(figure, left, top, width, high)
        draw_curves(curves, scores, "mean IoU (%)")
        heatmap = axes_at(figure, left, below, width, low)
        picture = draw_heatmap(heatmap, grid, scores.mean)
        heatmap.set(xlabel=TIME_AXIS, ylabel=BLOCK_AXIS)
        colour_bar(figure, picture, left + width + 0.1, below, low, "mean IoU (%)")
        if index:
            put_legend(figure, curves, 2 * stride, top)
    return figure


@house_style()
def per_class(study: Study) -> Figure:
    """IoU of every class that occurs over blocks and t, from the smallest area to the largest.

    Every heatmap has its own scale, from 0 to its best cell. Raises ValueError where no class
    occurs.
    """
    ranked, grid = study.groups.ranked, study.grid
    if not ranked:
        raise ValueError("no class occurs in the masks")
    iou, names = seed_mean(grid.iou * 100), class_labels(study.classes)
    columns = min(len(ranked), max(3, min(8, round(len(ranked) ** 0.5 + 0.3))))
    rows = -(-len(ranked) // columns)
    width, height, gap, text = 1.5, 1.05, 0.16, 0.34
    top, down = HEAD + 0.3, text + height + 0.14
    figure = paper(max(LEFT + columns * (width + gap) + 0.1, 5.4), top + rows * down - 0.14 + BELOW)
    title = f"IoU per class: {study.backbone} on {study.dataset}"
    note = "smallest area first; above each its best cell: block, t, IoU (%)"
    headline(figure, LEFT, title, note + _missing(iou[..., ranked[0]]))
    _common_scale(figure, LEFT, HEAD)
    for index, label in enumerate(ranked):
        row, column = divmod(index, columns)
        left, above = LEFT + column * (width + gap), top + row * down
        write(figure, left, above, names[label], width, size=SMALL + 0.5)
        write(figure, left, above + 0.15, _best_of(study, iou[..., label]), size=SMALL, color=GREY)
        axes = axes_at(figure, left, above + text, width, height)
        draw_heatmap(axes, grid, iou[..., label])
        lowest = index + columns >= len(ranked)
        axes.tick_params(labelleft=column == 0, labelbottom=lowest, length=2)
        axes.set_xlabel(TIME_AXIS if lowest else "", size=SMALL)
        axes.set_ylabel(BLOCK_AXIS if column == 0 else "", size=SMALL)
    return figure


def _best_of(study: Study, mean: Percent) -> str:
    row, column = best_cell(mean)
    if not mean[row, column] > 0:
        return "0 in every cell"
    place = study.grid.numbering.short(study.grid.blocks[row], study.grid.timesteps[column])
    return f"{place}: {mean[row, column]:.1f}"


def _common_scale(figure: Figure, left: float, top: float) -> None:
    """One colour bar for scales that differ in what their upper end means."""
    bar = axes_at(figure, left + 0.13, top + 0.02, 1.0, 0.1)
    figure.colorbar(ScalarMappable(Normalize(), "cividis"), cax=bar, orientation="horizontal")
    bar.set_axis_off()
    write(figure, left, top, "0", size=SMALL)
    write(figure, left + 1.2, top, "the best cell of the class (a scale each)", size=SMALL)


def _missing(mean: Percent) -> str:
    return "; hatched: not computed" if np.isnan(mean).any() else ""


def figures(study: Study) -> dict[str, Figure]:
    """All figures by file stem; those whose data the study lacks are left out.

    A network without timesteps has bars over its blocks where others have curves and heatmaps.
    """
    timeless = study.grid.numbering.timeless
    drawn = {"miou_over_timesteps": miou_over_timesteps, "miou_heatmap": miou_heatmap}
    if timeless:
        drawn = {"miou_over_blocks": miou_over_blocks}
    if study.groups.small:
        drawn["class_size"] = class_size_over_blocks if timeless else class_size
    if study.groups.ranked:
        drawn["per_class"] = per_class_over_blocks if timeless else per_class
    if study.clusters:
        drawn |= {"clusters": cluster_panels, "components": component_panels}
    if has_masks(study):
        drawn["masks"] = mask_panels
    return {stem: draw(study) for stem, draw in drawn.items()}


def save_figures(study: Study, folder: Path) -> list[str]:
    """Write STEM.png and STEM.svg of all figures, the same bytes every time; returns the stems."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures(study)
    for stem, figure in drawn.items():
        for suffix in ("png", "svg"):
            save_figure(figure, folder / f"{stem}.{suffix}")
    return list(drawn)
