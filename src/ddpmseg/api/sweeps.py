"""A finished sweep: its cells, curves and report."""

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpmseg.api.messages import python_names
from ddpmseg.finished import open as finished
from ddpmseg.records.cell_grid import METRICS, best_cell, seed_mean
from ddpmseg.report.study import Study
from ddpmseg.sweeps.report import cell_rows, read_study, write_sweep_report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NUMBERS = (*METRICS, "miou_small", "miou_large", "seconds")


class BestCell(NamedTuple):
    """The (block, timestep) with the highest miou, averaged over seeds."""

    block: int
    timestep: int
    miou: float


class Sweep:
    """Probes of a network at every (block, timestep) of a grid; `ddpmseg.open_sweep` gives it.

    folder: where it is; the same sweep finds it again and computes only what is missing.
    """

    def __init__(self, folder: Path) -> None:
        with python_names():
            self.folder, self._opened = folder, finished.open_sweep(folder)

    def __repr__(self) -> str:
        grid, best = self._study.grid, self.best
        return (
            f"Sweep of {len(grid.cells)} cells in '{self.folder}', "
            f"best: block {best.block}, t = {best.timestep}, miou {best.miou:.3f}"
        )

    @cached_property
    def _study(self) -> Study:
        return read_study(self._opened.store)

    @property
    def settings(self) -> dict[str, Any]:
        """What the cells depend on, by dotted key."""
        return dict(self._opened.identity["request"])

    @property
    def cells(self) -> "pd.DataFrame":
        """A row for every finished cell, as in `cells.csv`.

        Columns: block, timestep, seed; miou, miou_present, pixel_accuracy, miou_small, miou_large
        (of the smallest and the largest third of the classes), fractions; seconds.
        """
        import pandas as pd

        table = pd.DataFrame(list(cell_rows(self._study.grid, self._study)))
        numbers = table[list(NUMBERS)].apply(pd.to_numeric)
        return table.assign(**{name: numbers[name] for name in NUMBERS})

    @property
    def best(self) -> BestCell:
        grid = self._study.grid
        mean = seed_mean(grid.metric("miou"))
        row, column = best_cell(mean)
        return BestCell(grid.blocks[row], grid.timesteps[column], float(mean[row, column]))

    def curves(self) -> "Figure":
        """Miou against t, a curve per block, as the report draws it."""
        from ddpmseg.report.figures import miou_over_timesteps

        return miou_over_timesteps(self._study)

    def report(self) -> Path:
        """Draw `report.html` and the tables and figures beside it anew; returns its path."""
        write_sweep_report(self.folder)
        return self.folder / "report.html"


def open_sweep(folder: str | PathLike[str]) -> Sweep:
    """What `ddpmseg sweep` left in a folder, finished or not.

    Raises ConfigError for a folder of another kind, DataError where no cell is finished.
    """
    return Sweep(Path(folder))
