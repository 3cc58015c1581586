"""The cells whose masks are worth a look: the best, the median and the worst."""

from ddpmseg.records.cell_grid import seed_mean
from ddpmseg.report.study import Study


def notable_cells(study: Study) -> dict[str, tuple[int, int]]:
    """(block, timestep) of the 'best', the 'median' and the 'worst' cell by mean miou over seeds.

    Ranked are the cells whose masks `study.examples` holds, or all where it holds none. Of an even
    number the median is the lower one of the middle two, so of two cells it is the worst. Equal
    cells rank in the order of block, then t.
    """
    grid = study.grid
    mean = seed_mean(grid.metric("miou"))
    values = {
        (cell.block, cell.timestep): mean[
            grid.blocks.index(cell.block), grid.timesteps.index(cell.timestep)
        ]
        for cell in grid.cells
    }
    masks = study.examples.masks if study.examples else {}
    shown = [cell for cell in values if cell in masks] or list(values)
    ranked = sorted(shown, key=lambda cell: (-values[cell], cell))
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
