"""A sweep: computed, or opened again; its cells, curves and report."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpmseg.api.classes import Classes, class_table
from ddpmseg.api.features import recorded_settings, usual_features
from ddpmseg.api.images import Pictures, each_mask, fitted_samples
from ddpmseg.api.messages import python_names
from ddpmseg.api.settings import chosen
from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.composition.checks import typed_config
from ddpmseg.composition.plan import compose
from ddpmseg.config import SweepConfig
from ddpmseg.data.arrays import LabelledArrays
from ddpmseg.data.settings import ArraysConfig
from ddpmseg.data.survey import survey
from ddpmseg.features.noise import NoiseKind
from ddpmseg.finished import open as finished
from ddpmseg.records.cell_grid import METRICS, best_cell, seed_mean
from ddpmseg.report.study import Study
from ddpmseg.runtime.logs import quiet_libraries
from ddpmseg.sweeps.report import cell_rows, read_study, write_sweep_report
from ddpmseg.sweeps.resolve import resolve_sweep
from ddpmseg.sweeps.sweep import run_sweep

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

    folder: where it is; `ddpmseg.sweep` with the same arguments computes only what is missing.
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
        return dict(self._opened.identity.settings)

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


def sweep(
    backbone: Backbone,
    images: Pictures,
    masks: Pictures,
    test_images: Pictures,
    test_masks: Pictures,
    folder: str | PathLike[str],
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    head: str = "mlp",
    *,
    classes: Classes = None,
    seed: int = 0,
    seeds: Sequence[int] = (0,),
    hook: Hook = "output",
    noise: NoiseKind = "shared",
    pass_size: int | None = None,
    controls: Sequence[str] = ("pixels", "random"),
    tiny_annotations: str = "scaled",
    overwrite: bool = False,
    progress: bool = True,
    **head_settings: Any,
) -> Sweep:
    """Fit a probe at every (block, timestep) and test it, as `ddpmseg sweep` does.

    Args:
        backbone: from `ddpmseg.load_backbone`: its settings are recorded with the cells.
        images, masks: to fit the probes to, as of `ddpmseg.fit`.
        test_images, test_masks: to score them on.
        folder: gets the cells and the report. Cells that it holds are not computed again: a sweep
            that was interrupted continues, and other blocks, timesteps or seeds add cells.
        blocks: None: all of the network. timesteps: None: 21 from 0 to 999.
        head, head_settings, classes, hook, noise, pass_size, tiny_annotations: as of `ddpmseg.fit`;
            a probe has a single member.
        seed: draws the noise, the same for all probes. seeds: one probe each, for error bars.
        controls: 'pixels', a probe on the colours; 'random', the same network untrained.
        overwrite: replaces the cells of another sweep in `folder`.
        progress: shows a bar.

    Raises DataError and ConfigError as `ddpmseg.fit`; ConfigError also for a folder with cells of
    other images, weights or settings, and for a network that `load_backbone` did not make.

    >>> import ddpmseg, tempfile
    >>> backbone = ddpmseg.load_backbone("ddpm_ponies", device="cpu")
    >>> photos, truths = ddpmseg.ponies(2, "test")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = ddpmseg.sweep(
    ...         backbone, *ddpmseg.ponies(2), photos, truths, folder, [5, 6], [0, 50],
    ...         classes="ponies", controls=[], max_steps=10, progress=False,
    ...     )
    ...     found.cells[["block", "timestep", "seed"]].values.tolist()
    [[5, 0, 0], [5, 50, 0], [6, 0, 0], [6, 50, 0]]
    """
    quiet_libraries()
    with python_names():
        config = compose(None, [], lambda cfg: typed_config(cfg, SweepConfig), "sweep")
        every_mask = chain(each_mask(masks), each_mask(test_masks))
        table = class_table(classes, (mask for _, mask in every_mask))
        size = backbone.image_size
        dataset = LabelledArrays(
            "arrays",
            table,
            size,
            fitted_samples(images, masks, table, size, tiny_annotations),
            fitted_samples(test_images, test_masks, table, size),
        )
        config.seed = seed
        config.backbone = recorded_settings(backbone)
        config.dataset = ArraysConfig.of(dataset, survey(dataset).sha256, tiny_annotations)
        config.trainer.accelerator = backbone.device.type
        config.paths.output_dir, config.paths.overwrite = str(folder), overwrite
        chosen_features = usual_features(backbone)
        config.sweep = replace(
            config.sweep,
            blocks=None if blocks is None else [int(block) for block in blocks],
            timesteps=None if timesteps is None else [int(t) for t in timesteps],
            seeds=list(seeds),
            head=chosen("head", head, head_settings | {"members": 1}).head,
            hook=hook,
            noise=noise,
            batch_size=pass_size or chosen_features.batch_size,
            controls=list(controls),
        )
        command = "ddpmseg.sweep(...) in Python"
        run_sweep(resolve_sweep(config), dataset, command, backbone, show_bar=progress)
    return Sweep(Path(folder))


def open_sweep(folder: str | PathLike[str]) -> Sweep:
    """What `ddpmseg sweep` left in a folder, finished or not.

    Raises ConfigError for a folder of another kind, DataError where no cell is finished.
    """
    return Sweep(Path(folder))
