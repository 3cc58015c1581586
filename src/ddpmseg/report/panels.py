"""Pictures side by side: clusters, components (paper, figure 4) and predicted masks.

A pixel of a picture up to 256 across is a square of whole pixels in the PNG: none is blurred.
"""

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ddpmseg.data.class_table import GREY as NO_CLASS
from ddpmseg.data.class_table import ClassTable
from ddpmseg.records.cell_grid import seed_mean
from ddpmseg.report.canvas import (
    DPI,
    HEAD,
    MARGIN,
    SMALL,
    class_labels,
    desk,
    fitted,
    headline,
    hexadecimal,
    house_style,
    paper,
    widest,
    write,
)
from ddpmseg.report.colours import cluster_colours
from ddpmseg.report.notable import notable_cells
from ddpmseg.report.study import ClusterMaps, Study

_GAP = 6 / DPI
_SMALLEST, _LARGEST = 160, 256
"""Pixels across: smaller pictures are multiplied to at least the one, larger ones get the other."""

Picture = UInt8[np.ndarray, "s s 3"]


@house_style()
def cluster_panels(study: Study) -> Figure:
    """K-means clusters of single maps: x_t on top, then a row per block, for every image.

    Raises ValueError where the study has no clusters.
    """
    maps = _clusters(study)
    colours = cluster_colours(maps.k)
    note = f"k-means, k = {maps.k}; within an image like colours mean like regions"
    return _grid_of_maps(study, maps, colours[maps.labels], "Clusters", note)


@house_style()
def component_panels(study: Study) -> Figure:
    """The first three principal components of single maps as RGB, laid out as the clusters.

    Raises ValueError where the study has no clusters.
    """
    maps = _clusters(study)
    note = "first three principal components as red, green and blue"
    return _grid_of_maps(study, maps, maps.components, "Components", note)


@house_style()
def mask_panels(study: Study) -> Figure:
    """Images, true masks and the masks predicted at the best, the median and the worst cell.

    A cell that is two of these is shown once. Raises ValueError where the study has no masks.
    """
    examples = study.examples
    if not has_masks(study) or examples is None:
        raise ValueError("the study holds no predicted masks")
    masks = {_caption(study, name, cell): examples.masks[cell] for name, cell in _distinct(study)}
    labels = {"truth": examples.truths} | masks
    legend = _class_colours(study.classes, np.unique(np.stack(list(labels.values()))))

    tile, count = _tile(examples.images), len(examples.images)
    top = HEAD + 0.36
    width = max(2 * MARGIN + (1 + len(labels)) * (tile + _GAP), 4.8)
    names = [fitted(name, SMALL, 1.8) for name in legend]
    entry = widest(names, SMALL) + 0.4
    across = max(1, int((width - 2 * MARGIN) / entry))
    below = top + count * (tile + _GAP) + 0.08
    figure = paper(width, below + -(-len(legend) // across) * 0.165 + MARGIN)
    title = f"Predicted masks: {study.backbone} on {study.dataset}"
    headline(figure, MARGIN, title, "first seed; in brackets mean mIoU (%) over seeds")
    table = desk(figure)
    pictures = {"image": examples.images} | {
        caption: np.stack([study.classes.colourise(mask) for mask in stack])
        for caption, stack in labels.items()
    }
    for column, (caption, stack) in enumerate(pictures.items()):
        left = MARGIN + column * (tile + _GAP)
        look = {"ha": "center", "va": "baseline", "size": SMALL + 0.5, "linespacing": 1.1}
        write(figure, left + tile / 2, top - 0.06, caption, **look)
        for row, picture in enumerate(stack):
            _put(table, left, top + row * (tile + _GAP), tile, picture)
    inches = figure.get_size_inches()
    figure.legend(
        [Patch(facecolor=colour, edgecolor="grey", linewidth=0.5) for colour in legend.values()],
        names, loc="upper left", ncols=across, handlelength=1.2, columnspacing=1.2,
        bbox_to_anchor=(MARGIN / inches[0], 1 - below / inches[1]),
    )  # fmt: skip
    return figure


def has_masks(study: Study) -> bool:
    """Whether there are predicted masks of a cell of the study."""
    return study.examples is not None and notable_cells(study)["best"] in study.examples.masks


def _grid_of_maps(
    study: Study, maps: ClusterMaps, panels: UInt8[np.ndarray, "n b t s s 3"], what: str, note: str
) -> Figure:
    if study.grid.numbering.timeless:
        return _rows_of_maps(study, maps, panels[:, :, 0], what, note)
    tile = _tile(maps.images)
    names = [f"block {block}" for block in maps.blocks]
    first = MARGIN + max(tile, widest(names, SMALL + 0.5)) + 0.12
    stride = tile + _GAP
    each = 0.2 + (1 + len(names)) * stride + 0.12
    width = max(first + len(maps.timesteps) * stride + MARGIN, 5.4)
    figure = paper(width, HEAD + len(maps.images) * each + 0.02)
    headline(figure, MARGIN, f"{what}: {study.backbone} on {study.dataset}", note)
    table, look = desk(figure), {"size": SMALL + 0.5}
    for index, image in enumerate(maps.images):
        top = HEAD + index * each + 0.2
        above = {"ha": "center", "va": "bottom", **look}
        write(figure, first - 0.12 - tile / 2, top - 0.04, "image", **above)
        _put(table, first - 0.12 - tile, top, tile, image)
        for column, timestep in enumerate(maps.timesteps):
            left = first + column * stride
            write(figure, left + tile / 2, top - 0.04, f"t = {timestep}", **above)
            _put(table, left, top, tile, maps.noised[index, column])
            for row in range(len(names)):
                _put(table, left, top + (row + 1) * stride, tile, panels[index, row, column])
        for row, name in enumerate(names):
            middle = top + (row + 1) * stride + tile / 2
            write(figure, first - 0.08, middle, name, ha="right", va="center", **look)
    return figure


def _rows_of_maps(
    study: Study, maps: ClusterMaps, panels: UInt8[np.ndarray, "n b s s 3"], what: str, note: str
) -> Figure:
    """Without timesteps: a row for every image, the image first, then its blocks."""
    tile, names = _tile(maps.images), study.grid.numbering.names
    stride, top = tile + _GAP, HEAD + 0.3
    width = max(2 * MARGIN + (1 + len(maps.blocks)) * stride, 5.4)
    figure = paper(width, top + len(maps.images) * stride + MARGIN)
    headline(figure, MARGIN, f"{what}: {study.backbone} on {study.dataset}", note)
    table = desk(figure)
    columns = [("image", maps.images)] + [
        (f"block {block}\n{fitted(names.get(block, ''), SMALL, tile)}".strip(), panels[:, index])
        for index, block in enumerate(maps.blocks)
    ]
    for column, (caption, pictures) in enumerate(columns):
        left = MARGIN + column * stride
        look = {"ha": "center", "va": "bottom", "size": SMALL, "linespacing": 1.1}
        write(figure, left + tile / 2, top - 0.04, caption, **look)
        for row, picture in enumerate(pictures):
            _put(table, left, top + row * stride, tile, picture)
    return figure


def _clusters(study: Study) -> ClusterMaps:
    if study.clusters is None:
        raise ValueError("the study holds no clusters")
    return study.clusters


def _distinct(study: Study) -> list[tuple[str, tuple[int, int]]]:
    cells = notable_cells(study)
    # The last name of a cell stays: of two cells the lower median is called the worst.
    names = {cells[name]: name for name in ("median", "worst", "best")}
    return [(name, cell) for name, cell in cells.items() if names[cell] == name]


def _caption(study: Study, name: str, cell: tuple[int, int]) -> str:
    grid, (block, timestep) = study.grid, cell
    miou = seed_mean(grid.metric("miou"))[grid.blocks.index(block), grid.timesteps.index(timestep)]
    score = f"({miou * 100:.1f})"
    if grid.numbering.timeless:
        layer = fitted(grid.numbering.names.get(block, ""), SMALL, 0.75)
        return f"{name}: block {block},\n{layer} {score}"
    return f"{name}: block {block},\nt = {timestep} {score}"


def _class_colours(classes: ClassTable, labels: Integer[np.ndarray, " n"]) -> dict[str, str]:
    names = class_labels(classes)
    known = {names[n]: hexadecimal(classes.palette[n]) for n in labels if n < len(names)}
    return known | (
        {"no class": hexadecimal(np.array(NO_CLASS, np.uint8))} if len(known) < len(labels) else {}
    )


def _tile(pictures: UInt8[np.ndarray, "n s s 3"]) -> float:
    size = pictures.shape[1]
    return (size * -(-_SMALLEST // size) if size <= _LARGEST else _LARGEST) / DPI


def _put(axes: Axes, left: float, top: float, size: float, picture: Picture) -> None:
    # A pixel of a picture covers whole pixels of the PNG only if its corner lies on their grid.
    left, top = round(left * DPI) / DPI, round(top * DPI) / DPI
    place = (left, left + size, top + size, top)
    axes.imshow(picture, interpolation="nearest", aspect="auto", extent=place)
