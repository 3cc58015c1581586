"""Cells as arrays: the metric of every cell, holes, and means over the seeds there are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ddpmseg.metrics import functional
from ddpmseg.records.cell_grid import (
    METRICS,
    Cell,
    CellGrid,
    best_cell,
    half_crossing,
    seed_mean,
    seed_spread,
)


def random_cell(block: int, timestep: int, seed: int, classes: int = 4) -> Cell:
    generator = torch.Generator().manual_seed(1000 * block + 10 * timestep + seed)
    counts = torch.randint(50, (classes + 1, classes), generator=generator)
    return Cell(block, timestep, seed, counts)


KEYS = [(7, 200, 1), (2, 50, 0), (2, 200, 0), (7, 50, 0), (7, 50, 1), (7, 200, 0), (2, 50, 1)]
"""All of blocks 2, 7, timesteps 50, 200 and seeds 0, 1, but (2, 200, 1)."""


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("ignore_label", [255, 1])
def test_every_cell_has_its_metric_and_a_missing_one_nan(name: str, ignore_label: int) -> None:
    cells = [random_cell(*key) for key in KEYS]
    grid = CellGrid(cells, ignore_label)
    assert (grid.blocks, grid.timesteps, grid.seeds) == ((2, 7), (50, 200), (0, 1))
    values = grid.metric(name)
    assert values.shape == (2, 2, 2)
    assert values.dtype == np.float64
    for cell in cells:
        function = getattr(functional, name)
        arguments = () if name == "pixel_accuracy" else (ignore_label,)
        expected = function(cell.counts, *arguments).item()
        place = (cell.block == 7, cell.timestep == 200, cell.seed)
        assert values[tuple(map(int, place))] == pytest.approx(expected)
    assert np.argwhere(np.isnan(values)).tolist() == [[0, 1, 1]]


def test_iou_of_classes_and_groups() -> None:
    grid = CellGrid([random_cell(*key) for key in KEYS], 1)
    assert grid.iou.shape == (2, 2, 2, 4)
    expected = functional.iou_per_class(grid.by_key[7, 50, 1].counts, 1).numpy()
    np.testing.assert_allclose(grid.iou[1, 0, 1], expected)
    assert np.isnan(grid.iou[..., 1]).all()
    assert grid.group_iou((0, 3))[1, 0, 1] == pytest.approx((expected[0] + expected[3]) / 2)
    assert np.isnan(grid.group_iou((0, 3))[0, 1, 1])


def test_true_pixels_leave_out_ignored_ones() -> None:
    counts = torch.tensor([[5, 1], [2, 4], [100, 100]])
    assert CellGrid([Cell(0, 0, 0, counts)], 255).true_pixels.tolist() == [6, 6]


def test_no_cells_and_repeated_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        CellGrid([], 255)
    with pytest.raises(ValueError, match="two cells of one"):
        CellGrid([random_cell(1, 2, 3), random_cell(1, 2, 3)], 255)


FRACTIONS = st.floats(0, 1) | st.just(math.nan)


@given(arrays(np.float64, array_shapes(min_dims=3, max_dims=4, max_side=4), elements=FRACTIONS))
def test_seed_mean_equals_loop(values: np.ndarray) -> None:
    found = seed_mean(values)
    assert found.shape == values.shape[:2] + values.shape[3:]
    for index in np.ndindex(*found.shape):
        there = [v for v in values[(*index[:2], slice(None), *index[2:])] if not math.isnan(v)]
        if there:
            assert found[index] == pytest.approx(sum(there) / len(there))
        else:
            assert math.isnan(found[index])


@given(arrays(np.float64, array_shapes(min_dims=3, max_dims=3, max_side=4), elements=FRACTIONS))
def test_seed_spread_equals_loop(values: np.ndarray) -> None:
    found = seed_spread(values)
    assert found.shape == values.shape[:2]
    for index in np.ndindex(*found.shape):
        there = [v for v in values[index] if not math.isnan(v)]
        if len(there) < 2:
            assert math.isnan(found[index])
        else:
            mean = sum(there) / len(there)
            variance = sum((v - mean) ** 2 for v in there) / (len(there) - 1)
            assert found[index] == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_best_cell_passes_over_holes_and_takes_the_first_of_equals() -> None:
    mean = np.array([[math.nan, 0.1], [0.4, 0.3], [0.2, 0.4]])
    assert best_cell(mean) == (1, 0)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 0.75, 0.25, 0.5], (15.0, 2)),  # the first crossing, not the last value
        ([0.2, 1.0, 0.5, 0.1], (20.0, 2)),  # reached exactly counts; what lies before does not
        ([1.0, 0.9, 0.8, 0.7], (math.inf, -1)),
        ([0.1, 0.2, 0.3, 0.4], (math.inf, -1)),
    ],
)
def test_half_crossing(curve: list[float], expected: tuple[float, int]) -> None:
    assert half_crossing(np.array([0.0, 10, 20, 30]), np.array(curve)) == expected
