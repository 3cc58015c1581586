"""Which block and timestep every class prefers, and whether that goes with its size.

The paper (section 3.1, figure 3) finds that small classes prefer shallower blocks (higher index)
and smaller t: a negative rank correlation of area and block, a positive one of area and t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.stats import spearmanr

from ddpmseg.records.cell_grid import CellGrid, best_cell, half_crossing, seed_mean
from ddpmseg.report.study import Study

SEGMENTED = 0.01
"""A class with a smaller IoU in every cell prefers none."""
FEWEST_CLASSES = 4
"""Fewer say nothing about a rank correlation."""


@dataclass(frozen=True, eq=False)
class Preferences:
    """The cell with the largest IoU of every class that occurs and is segmented somewhere.

    Arrays go from the smallest class to the largest. `area` is the share of the annotated test
    pixels, `iou` the value in the preferred cell, both fractions. `rho_block` and `rho_timestep`
    are Spearman's rank correlations with `area`, two-sided p beside them; NaN where all classes
    prefer the same. `half` is the t at which a class falls to half of its best IoU within its
    preferred block, infinite where it does not: large classes that are known at larger t (paper,
    figure 3) give a positive `rho_half`. `left_out` counts the classes that occur but are never
    segmented.
    """

    labels: tuple[int, ...]
    area: Float64[np.ndarray, " n"]
    block: tuple[int, ...]
    timestep: tuple[int, ...]
    iou: Float64[np.ndarray, " n"]
    rho_block: float
    p_block: float
    rho_timestep: float
    p_timestep: float
    half: tuple[float, ...]
    rho_half: float
    p_half: float
    left_out: int


def class_preferences(study: Study) -> Preferences | None:
    """The cells that classes prefer; None where fewer than four classes are segmented anywhere.

    Of equal cells the deepest block, then the smallest t is preferred.
    """
    grid, groups = study.grid, study.groups
    iou = seed_mean(grid.iou)
    best = {label: best_cell(iou[..., label]) for label in groups.ranked}
    labels = [label for label in groups.ranked if iou[(*best[label], label)] >= SEGMENTED]
    if len(labels) < FEWEST_CLASSES:
        return None
    area = groups.area[labels]
    block = tuple(grid.blocks[best[label][0]] for label in labels)
    timestep = tuple(grid.timesteps[best[label][1]] for label in labels)
    rho_block, p_block = _rank_correlation(area, block)
    rho_timestep, p_timestep = _rank_correlation(area, timestep)
    half = tuple(_half(grid, iou[best[label][0], :, label]) for label in labels)
    rho_half, p_half = _rank_correlation(area, half)
    return Preferences(
        labels=tuple(labels),
        area=area,
        block=block,
        timestep=timestep,
        iou=np.array([iou[(*best[label], label)] for label in labels]),
        rho_block=rho_block,
        p_block=p_block,
        rho_timestep=rho_timestep,
        p_timestep=p_timestep,
        half=half,
        rho_half=rho_half,
        p_half=p_half,
        left_out=len(groups.ranked) - len(labels),
    )


def _half(grid: CellGrid, curve: Float64[np.ndarray, " t"]) -> float:
    there = ~np.isnan(curve)
    return half_crossing(np.array(grid.timesteps, float)[there], curve[there])[0]


def _rank_correlation(
    area: Float64[np.ndarray, " n"], preferred: Sequence[float]
) -> tuple[float, float]:
    """Spearman's rho and its two-sided p; NaN where either does not vary."""
    if len(set(area.tolist())) < 2 or len(set(preferred)) < 2:
        return float("nan"), float("nan")
    result: Any = spearmanr(area, preferred)
    return float(result.statistic), float(result.pvalue)
