"""What `ddpmseg sweep` does with a composed configuration: every (block, timestep)."""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ddpmseg import ranks
from ddpmseg.backbones.base import Backbone
from ddpmseg.command_line import called_command
from ddpmseg.composition.build import cache_folder
from ddpmseg.composition.checks import check_one_device, check_shares, typed_config
from ddpmseg.config import SweepConfig
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.survey import known_survey
from ddpmseg.download.settings import fetch_missing
from ddpmseg.features.layout import other_size
from ddpmseg.metrics.functional import miou
from ddpmseg.records.cells import CellStore
from ddpmseg.records.folder_kind import check_kind
from ddpmseg.records.results import peak_rss_mb
from ddpmseg.runtime.logs import log_file
from ddpmseg.runtime.processes import processes
from ddpmseg.sweeps.claim import claim, is_finished, settings_identity
from ddpmseg.sweeps.compute import compute, follow
from ddpmseg.sweeps.grid import dry_run, pieces_of, pieces_to_do
from ddpmseg.sweeps.networks import NetworkSlot
from ddpmseg.sweeps.report import write_sweep_report
from ddpmseg.sweeps.resolve import ResolvedSweep, resolve_sweep
from ddpmseg.sweeps.show import write_clusters, write_examples
from ddpmseg.sweeps.track import log_sweep, record_cells, sweep_run

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)


def finished(cfg: DictConfig) -> float | None:
    """Best miou of the requested cells if all of them are done; else None. Changes nothing."""
    sweep = resolve_sweep(typed_config(cfg, SweepConfig))
    config = sweep.config
    if config.sweep.dry_run or config.paths.overwrite or config.backbone.will_fetch():
        return None
    store = CellStore(sweep.folder)
    return best_miou(sweep, store) if is_finished(sweep, store) else None


def sweep(cfg: DictConfig, in_multirun: bool = False) -> float | None:
    """Compute the cells that are not done yet, then the report; returns the best cell's miou.

    None for a dry run. In a multirun the report waits for the last job. On several devices rank 0
    decides what is done and records it; the other ranks return None, too. Raises UserError for
    anything a user can put right; finished cells stay.
    """
    resolved = resolve_sweep(typed_config(cfg, SweepConfig))
    config, store = resolved.config, CellStore(resolved.folder)
    check_one_device(config.trainer, in_multirun)
    check_kind(store.folder, "sweep", "paths.output_dir")
    if not config.paths.overwrite:
        store.check(settings_identity(config), settings_only=True)
    if config.sweep.dry_run:
        for line in dry_run(resolved, store, every_cell=log.isEnabledFor(logging.DEBUG)):
            log.info(line)
        return None
    fetch_missing((config.dataset, config.backbone), cache_folder(config.paths, "downloads"))
    with processes(config.trainer):
        dataset = config.dataset.build()
        if not ranks.is_first():
            return follow(resolved, dataset)
        check_shares(config.trainer.devices, dataset)
        return run_sweep(resolved, dataset, called_command(), in_multirun=in_multirun)


def run_sweep(
    sweep: ResolvedSweep,
    dataset: LabelledSet,
    command: str,
    backbone: Backbone | None = None,
    in_multirun: bool = False,
    show_bar: bool | None = None,
) -> float:
    """`sweep` on rank 0, on images that are read and, if given, a network that is loaded.

    command: what computes the cells again, for the report. show_bar: a progress bar; None: only on
    a terminal, elsewhere a line per timestep.
    """
    config, store = sweep.config, CellStore(sweep.folder)
    networks = NetworkSlot(sweep.device, config.backbone, backbone)
    if note := other_size(sweep.network, config.dataset.image_size):
        log.info(note)
    for sentence in known_survey(config.dataset, dataset).warnings(dataset.classes):
        log.warning(sentence)
    if config.paths.overwrite or pieces_to_do(sweep, store):
        # Before the folder is touched, so that unusable weights cost nothing of what it holds.
        networks.get(config.backbone)
    if config.paths.overwrite:
        _begin_anew(sweep, store, in_multirun)
    claim(sweep, store, dataset, command)
    with log_file(store.folder / "sweep.log"):
        if in_multirun:
            compute(sweep, store, dataset, networks, wait=True, show_bar=show_bar)
        else:
            with sweep_run(config) as run:
                compute(sweep, store, dataset, networks, wait=False, show_bar=show_bar)
                show(sweep, dataset, networks, run)
            record_cells(config)
        log.info("peak memory %.0f MB; all in %s", peak_rss_mb(), store.folder)
    return best_miou(sweep, store)


def best_miou(sweep: ResolvedSweep, store: CellStore) -> float:
    """Of the requested cells; the folder may hold others."""
    ignore_label = sweep.config.dataset.class_table().ignore_label
    requested = {
        key for piece in pieces_of(sweep, store) if not piece.control for key in piece.keys
    }
    return max(
        float(miou(cell.counts, ignore_label)) for cell in store.read() if cell.key in requested
    )


def show(
    sweep: ResolvedSweep, dataset: LabelledSet, networks: NetworkSlot, run: "Run | None" = None
) -> None:
    """Write the pictures and the report of all cells that are done, to W&B's `run` as well."""
    store = CellStore(sweep.folder)
    with store.reporting():
        write_examples(store.folder, dataset, sweep.config.sweep.num_examples)
        write_clusters(sweep, dataset, networks)
    study = write_sweep_report(store.folder)
    if run is not None:
        log_sweep(run, sweep.config, study)


def _begin_anew(sweep: ResolvedSweep, store: CellStore, in_multirun: bool) -> None:
    """Delete what the folder holds; in a multirun, whose jobs may share it, only the own cells."""
    if not in_multirun:
        store.clear()
        return
    if not store.folder.exists():
        return
    pieces = list(pieces_of(sweep, store))
    timesteps = [piece.timestep for piece in pieces if not piece.control]
    with store.held(timesteps, sweep.grid.controls, wait=True):
        for piece in pieces:
            store.drop(piece.keys, piece.control)
