"""What `sweep` does with a composed configuration: every (block, timestep), cell by cell."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ddpmseg import ranks
from ddpmseg.backbones.base import Backbone
from ddpmseg.command_line import called_command
from ddpmseg.composition.build import (
    cache_folder,
)
from ddpmseg.composition.checks import check_alone, check_shares
from ddpmseg.config import BackboneConfig, SweepConfig, sweep_request
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.survey import survey
from ddpmseg.download.settings import fetch_missing
from ddpmseg.io.files import file_sha256
from ddpmseg.metrics.functional import miou
from ddpmseg.records.cells import CellStore
from ddpmseg.records.results import peak_rss_mb
from ddpmseg.runtime.device import choose_device
from ddpmseg.runtime.logs import log_file
from ddpmseg.runtime.processes import processes
from ddpmseg.runtime.progress import Progress
from ddpmseg.sweeps.checks import CONTROLS, checked_sweep
from ddpmseg.sweeps.forecast import forecast_sweep
from ddpmseg.sweeps.grid import Piece, dry_run, pieces_of, pieces_to_do
from ddpmseg.sweeps.probe import Probed, probe_timestep
from ddpmseg.sweeps.report import LAYERS, network_record, write_sweep_report
from ddpmseg.sweeps.show import write_clusters, write_examples
from ddpmseg.sweeps.track import log_sweep, record_cells, sweep_run

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)


def finished(cfg: DictConfig) -> float | None:
    """Best miou of the folder where all cells of the request are done; else None."""
    config = checked_sweep(cfg)
    store = CellStore(Path(config.paths.output_dir))
    if config.sweep.dry_run or config.paths.overwrite or config.backbone.will_fetch():
        return None
    weights = _checkpoint_sha256(config.backbone)
    store.check({"request": sweep_request(cfg), "checkpoint_sha256": weights})
    if pieces_to_do(config, store) or any(map(store.is_damaged, ("", *CONTROLS))):
        return None
    return _best(store, config)


def sweep(cfg: DictConfig, in_multirun: bool = False) -> float | None:
    """Compute the cells that are not done yet, then the report; returns the best cell's miou.

    None for a dry run. In a multirun the report waits for the last job. On several devices rank 0
    decides what is done and records it; for the others it is None, too. Raises UserError for
    anything a user can put right; finished cells stay.
    """
    config = checked_sweep(cfg)
    check_alone(config.trainer, in_multirun)
    store = CellStore(Path(config.paths.output_dir))
    identity = {"request": sweep_request(cfg)}
    if not config.paths.overwrite:
        store.check(identity)
    if config.sweep.dry_run:
        every_cell = log.isEnabledFor(logging.DEBUG)
        for line in dry_run(config, store, not _knows_timesteps(config), every_cell):
            log.info(line)
        return None
    fetch_missing((config.dataset, config.backbone), cache_folder(config.paths, "downloads"))
    with processes(config.trainer):
        if not ranks.is_first():
            return _follow(config)
        return _lead(cfg, config, store, identity, in_multirun)


def _lead(
    cfg: DictConfig,
    config: SweepConfig,
    store: CellStore,
    identity: dict[str, Any],
    in_multirun: bool,
) -> float:
    """`sweep` on rank 0."""
    dataset = config.dataset.build()
    check_shares(config.trainer.devices, dataset)
    found = survey(dataset)
    for sentence in found.warnings(dataset.classes):
        log.warning(sentence)
    backbone: Backbone | None = None
    if config.paths.overwrite or pieces_to_do(config, store):
        # Now, so that weights that cannot be used cost nothing of what the folder holds.
        backbone = config.backbone.build(choose_device(config.trainer.accelerator))
    if config.paths.overwrite:
        _begin_anew(config, store, in_multirun)
    store.claim(
        identity
        | {
            "checkpoint_sha256": _checkpoint_sha256(config.backbone),
            LAYERS: network_record(config.backbone.shape()),
            "data_sha256": found.sha256,
            "num_labelled": len(dataset.train),
            "num_test": len(dataset.test),
            "command": called_command(),
        },
        OmegaConf.to_yaml(cfg, resolve=True),
    )
    with log_file(store.folder / "sweep.log"):
        if in_multirun:
            _compute(config, store, dataset, backbone, in_multirun)
        else:
            with sweep_run(config) as run:
                _compute(config, store, dataset, backbone, in_multirun)
                show(config, dataset, run)
            record_cells(config)
        log.info("peak memory %.0f MB; all in %s", peak_rss_mb(), store.folder)
    return _best(store, config)


def _begin_anew(config: SweepConfig, store: CellStore, in_multirun: bool) -> None:
    """Delete what the folder holds; in a multirun, whose jobs may share it, only the own cells."""
    if not in_multirun:
        store.clear()
        return
    if not store.folder.exists():
        return
    pieces = list(pieces_of(config))
    with store.held(_timesteps(pieces), wait=True):
        for piece in pieces:
            store.drop(piece.keys, piece.control)


def _best(store: CellStore, config: SweepConfig) -> float:
    ignore_label = config.dataset.class_table().ignore_label
    return max(float(miou(cell.counts, ignore_label)) for cell in store.read())


def show(config: SweepConfig, dataset: LabelledSet, run: "Run | None" = None) -> None:
    """Write the pictures and the report of all cells that are done, to W&B's `run` as well."""
    store = CellStore(Path(config.paths.output_dir))
    with store.reporting():
        write_examples(store.folder, dataset, config.sweep.num_examples)
        write_clusters(store.folder, config, dataset)
    study = write_sweep_report(store.folder)
    if run is not None:
        log_sweep(run, config, study)


def _compute(
    config: SweepConfig,
    store: CellStore,
    dataset: LabelledSet,
    backbone: Backbone | None,
    wait: bool,
) -> None:
    """Compute all cells without a record, one timestep after the other.

    `backbone` is that of the sweep, if it is loaded already; `wait` for other processes that
    compute the same timesteps.
    """
    for control in ("", *CONTROLS):
        for sentence in store.drop_damaged(control):
            log.warning(sentence)
    pieces = pieces_to_do(config, store)
    _tell_grid(config, pieces)
    with ExitStack() as until_done:
        until_done.enter_context(store.held(_timesteps(pieces), wait))
        # What another process finished since, it need not do again.
        pieces = pieces_to_do(config, store)
        progress: Progress | None = None
        for control, group in groupby(pieces, key=lambda piece: piece.control):
            some = list(group)
            if control or backbone is None:
                device = choose_device(config.trainer.accelerator)
                backbone = some[0].config.backbone.build(device)
            if progress is None:
                progress = forecast_sweep(pieces, backbone, dataset)
                until_done.callback(progress.close)
            for piece in some:
                ranks.from_first(piece)
                probed = probe_timestep(
                    piece.config,
                    backbone,
                    dataset,
                    piece.seeds,
                    config.sweep.num_examples,
                    progress.advance,
                )
                _record(probed, piece, store)
                timeless = backbone.num_timesteps is None
                progress.finish(_told(probed, piece, dataset.classes.ignore_label, timeless))
    ranks.from_first(None)


def _follow(config: SweepConfig) -> None:
    """What the other ranks do: their share of each piece that rank 0 takes up."""
    dataset = config.dataset.build()
    backbone, built_for = None, ""
    while (piece := ranks.from_first(None)) is not None:
        assert isinstance(piece, Piece)
        if backbone is None or piece.control != built_for:
            device = choose_device(config.trainer.accelerator)
            backbone, built_for = piece.config.backbone.build(device), piece.control
        shown = config.sweep.num_examples
        probe_timestep(piece.config, backbone, dataset, piece.seeds, shown, lambda *_: None)


def _record(probed: list[Probed], piece: Piece, store: CellStore) -> None:
    done = store.done(piece.control)
    for one in probed:
        if one.cell.key not in done:
            store.write(one.cell, one.masks, piece.control)


def _told(probed: list[Probed], piece: Piece, ignore_label: int, timeless: bool) -> str:
    """What came of a piece, in a few words."""
    scores = {one.cell.block: float(miou(one.cell.counts, ignore_label)) for one in probed}
    best = max(scores, key=lambda block: scores[block])
    name = f"control {piece.control}" if piece.control else f"t = {piece.timestep}"
    if not piece.control and timeless:
        name = "all blocks"
    return f"{name}: best block {best}, miou {100 * scores[best]:.1f}"


def _timesteps(pieces: Iterable[Piece]) -> list[int]:
    return [piece.timestep for piece in pieces if not piece.control]


def _tell_grid(config: SweepConfig, pieces: list[Piece]) -> None:
    sweep = config.sweep
    assert sweep.blocks is not None  # `checked_sweep` lists them
    assert sweep.timesteps is not None
    sides = (len(sweep.blocks), len(sweep.timesteps), len(sweep.seeds))
    cells = sides[0] * sides[1] * sides[2]
    if not _knows_timesteps(config):
        log.info("grid: %d blocks x %d seeds = %d cells; no timesteps", *sides[::2], cells)
        return
    log.info("grid: %d blocks x %d timesteps x %d seeds = %d cells", *sides, cells)
    log.info("to do: %d of %d timesteps", len(_timesteps(pieces)), len(sweep.timesteps))


def _knows_timesteps(config: SweepConfig) -> bool:
    return config.backbone.shape().num_timesteps is not None


def _checkpoint_sha256(config: BackboneConfig) -> str:
    path = config.weight_file()
    return "" if path is None else file_sha256(path)
