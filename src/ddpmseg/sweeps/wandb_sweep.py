"""What the W&B run of a sweep shows, and the runs of its cells."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpmseg.records.cell_grid import CellGrid, best_cell, seed_mean
from ddpmseg.report.study import Study
from ddpmseg.tracking.wandb_media import table_of

if TYPE_CHECKING:
    from wandb import Run

AXIS = "timestep"
"""Of the curves in a run's history."""


def log_study(run: "Run", study: Study, folder: Path, jobs: Path | None = None) -> None:
    """All that `report.html` in `folder` shows: tables, curves, figures, findings, the page itself.

    The curves come twice: as charts, and as history over `timestep` (`curve/block_06`), which
    panels can compare between sweeps. `jobs` is the table of a multirun's jobs.
    """
    import wandb

    run.define_metric(AXIS, hidden=True)
    run.define_metric("curve/*", step_metric=AXIS, summary="max")
    for row in curve_rows(study.grid):
        run.log(dict(row))
    shown: dict[str, Any] = {"sweep/cells": table_of(folder / "cells.csv")}
    if study.controls:
        shown["sweep/controls"] = table_of(folder / "controls.csv")
    if jobs is not None:
        shown["sweep/jobs"] = table_of(jobs)
    for name, values in _curves(study).items():
        shown[f"sweep/{name}"] = _chart(study.grid, values, name)
    for path in sorted((folder / "figures").glob("*.png")):
        shown[f"figures/{path.stem}"] = wandb.Image(str(path))
    with (folder / "report.html").open(encoding="utf-8") as page:
        shown["sweep/report"] = wandb.Html(page, inject=False)
    run.log(shown)
    run.summary.update(_summary(study))
    run.notes = (folder / "findings.txt").read_text(encoding="utf-8")


def curve_rows(grid: CellGrid) -> Iterable[Mapping[str, float]]:
    """For every timestep the mean miou over seeds of its blocks, as rows of a history."""
    mean = seed_mean(grid.metric("miou"))
    for column, timestep in enumerate(grid.timesteps):
        row = {
            f"curve/block_{block:02d}": float(mean[index, column])
            for index, block in enumerate(grid.blocks)
            if not np.isnan(mean[index, column])
        }
        yield {AXIS: timestep, **row}


def log_cell(run: "Run", row: Mapping[str, object]) -> None:
    """The scores of one cell; `row` is its row of cells.csv."""
    run.summary.update(
        {
            f"test/{name}": float(str(row[name]))
            for name in ("miou", "miou_present", "pixel_accuracy", "miou_small", "miou_large")
            if row[name] != ""
        }
        | {"seconds/cell": float(str(row["seconds"]))}
    )


def _curves(study: Study) -> dict[str, np.ndarray]:
    """Means over seeds (b, t) by the name of the chart."""
    curves = {"miou": seed_mean(study.grid.metric("miou"))}
    if study.groups.small:
        for name, labels in (("small", study.groups.small), ("large", study.groups.large)):
            curves[f"miou_{name}"] = seed_mean(study.grid.group_iou(labels))
    return curves


def _chart(grid: CellGrid, mean: np.ndarray, name: str) -> Any:
    import wandb

    timesteps = np.array(grid.timesteps)
    return wandb.plot.line_series(
        xs=[timesteps[~np.isnan(row)].tolist() for row in mean],
        ys=[row[~np.isnan(row)].tolist() for row in mean],
        keys=[f"block {block}" for block in grid.blocks],
        title=f"{name} over timesteps",
        xname=AXIS,
    )


def _summary(study: Study) -> dict[str, float]:
    grid = study.grid
    mean = seed_mean(grid.metric("miou"))
    row, column = best_cell(mean)
    return {
        "test/miou": float(mean[row, column]),
        "best/block": grid.blocks[row],
        "best/timestep": grid.timesteps[column],
        "sweep/num_cells": len(grid.cells),
        "seconds/cells": sum(cell.seconds for cell in grid.cells),
    }
