"""The cells of a sweep: one probe per (block, timestep, seed), and what it got right."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from ddpmseg.metrics import functional
from ddpmseg.numbering import Numbering

METRICS = ("miou", "miou_present", "pixel_accuracy")


@dataclass(frozen=True, eq=False)
class Cell:
    """One probe at (block, timestep) and the masks it predicted for the test images.

    `counts` is the table of `ddpmseg.metrics.functional.confusion` over all of them: pixels by true
    label (last row: ignored) and predicted label. `seconds` is its share of the time its timestep
    took.
    """

    block: int
    timestep: int
    seed: int
    counts: Int64[Tensor, "k_plus_1 k"]
    seconds: float = 0.0

    @property
    def key(self) -> tuple[int, int, int]:
        return self.block, self.timestep, self.seed


class CellGrid:
    """Cells by block (ascending), timestep (ascending) and seed; some may be missing.

    Arrays have axes in that order, float64, NaN where a cell is missing. `numbering` says what
    blocks and timesteps are called; without timesteps there is one column.
    Raises ValueError for no cells at all, and for two cells of one (block, timestep, seed).
    """

    def __init__(
        self, cells: Iterable[Cell], ignore_label: int, numbering: Numbering | None = None
    ) -> None:
        self.cells = tuple(sorted(cells, key=lambda cell: cell.key))
        self.ignore_label = ignore_label
        self.numbering = numbering or Numbering()
        if not self.cells:
            raise ValueError("a grid needs at least one cell")
        self.by_key = {cell.key: cell for cell in self.cells}
        if len(self.by_key) < len(self.cells):
            raise ValueError("two cells of one (block, timestep, seed)")
        self.blocks = tuple(sorted({cell.block for cell in self.cells}))
        self.timesteps = tuple(sorted({cell.timestep for cell in self.cells}))
        self.seeds = tuple(sorted({cell.seed for cell in self.cells}))

    def metric(self, name: str) -> Float64[np.ndarray, "b t s"]:
        """One of `METRICS` for every cell, as fractions."""
        if name == "pixel_accuracy":
            return self._array(lambda cell: functional.pixel_accuracy(cell.counts))
        function = {"miou": functional.miou, "miou_present": functional.miou_present}[name]
        return self._array(lambda cell: function(cell.counts, self.ignore_label))

    @cached_property
    def iou(self) -> Float64[np.ndarray, "b t s k"]:
        """IoU of every class as in `miou`; NaN for the ignore label."""
        return self._array(lambda cell: functional.iou_per_class(cell.counts, self.ignore_label))

    def group_iou(self, labels: Iterable[int]) -> Float64[np.ndarray, "b t s"]:
        """Mean IoU over some of the classes."""
        return self.iou[..., list(labels)].mean(-1)

    @property
    def true_pixels(self) -> Int64[np.ndarray, " k"]:
        """Pixels of every class in the masks of the test images; the same for every cell."""
        return self.cells[0].counts[:-1].sum(1).numpy()

    def _array(self, value) -> np.ndarray:
        index = [
            (self.blocks.index(c.block), self.timesteps.index(c.timestep), self.seeds.index(c.seed))
            for c in self.cells
        ]
        values = np.stack([value(cell).numpy() for cell in self.cells])
        shape = (len(self.blocks), len(self.timesteps), len(self.seeds), *values.shape[1:])
        array = np.full(shape, np.nan)
        array[tuple(np.array(index).T)] = values
        return array


def seed_mean(values: Float64[np.ndarray, "b t s ..."]) -> Float64[np.ndarray, "b t ..."]:
    """Mean over the seeds a cell has; NaN where it has none."""
    there = ~np.isnan(values)
    count = there.sum(2)
    total = np.where(there, values, 0).sum(2)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def seed_spread(values: Float64[np.ndarray, "b t s"]) -> Float64[np.ndarray, "b t"]:
    """Sample standard deviation over seeds; NaN where a cell has fewer than two."""
    count = (~np.isnan(values)).sum(2)
    squares = np.where(np.isnan(values), 0, (values - seed_mean(values)[:, :, None]) ** 2).sum(2)
    return np.sqrt(
        np.divide(squares, count - 1, out=np.full(squares.shape, np.nan), where=count > 1)
    )


def best_cell(mean: Float64[np.ndarray, "b t"]) -> tuple[int, int]:
    """Row and column of the largest value; the first block and timestep of equals."""
    row, column = np.unravel_index(np.nanargmax(mean), mean.shape)
    return int(row), int(column)


def half_crossing(
    timesteps: Float64[np.ndarray, " t"], curve: Float64[np.ndarray, " t"]
) -> tuple[float, int]:
    """Where a curve first falls to half of its maximum, after it, by linear interpolation.

    Returns that t, and the index of the first value at or below half; (inf, -1) where there is
    none. `timesteps` ascend, `curve` has no NaN.
    """
    peak = int(curve.argmax())
    reached = np.flatnonzero(curve[peak + 1 :] <= curve[peak] / 2)
    if not len(reached):
        return np.inf, -1
    right = peak + 1 + int(reached[0])
    ends = [right, right - 1]
    return float(np.interp(curve[peak] / 2, curve[ends], timesteps[ends])), right
