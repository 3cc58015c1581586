"""The cells of a sweep that are not done: computed piece by piece, and recorded."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby

from ddpmseg import ranks
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.metrics.functional import miou
from ddpmseg.records.cells import CellStore
from ddpmseg.runtime.progress import Progress
from ddpmseg.sweeps.forecast import forecast_sweep
from ddpmseg.sweeps.grid import Piece, left_of, pieces_to_do
from ddpmseg.sweeps.networks import NetworkSlot
from ddpmseg.sweeps.probe import Probed, probe_timestep
from ddpmseg.sweeps.resolve import CONTROLS, ResolvedSweep

log = logging.getLogger(__name__)


def compute(
    sweep: ResolvedSweep,
    store: CellStore,
    dataset: LabelledSet,
    networks: NetworkSlot,
    wait: bool,
    show_bar: bool | None = None,
) -> None:
    """Compute all cells without a record, one timestep after the other, then the controls.

    `wait` for other processes that compute the same timesteps; for those that compute a control it
    always waits. show_bar: see `ddpmseg.runtime.progress.Progress`.
    """
    for control in ("", *CONTROLS):
        for sentence in store.drop_damaged(control):
            log.warning(sentence)
    pieces = pieces_to_do(sweep, store)
    _log_grid(sweep, pieces)
    with ExitStack() as until_done:
        until_done.enter_context(store.held(_timesteps(pieces), wait=wait))
        # Another process may have finished some since.
        pieces = pieces_to_do(sweep, store)
        progress: Progress | None = None
        for control, group in groupby(pieces, key=lambda piece: piece.control):
            with store.held((), [control] if control else [], wait=True):
                for piece in group:
                    left = left_of(piece, store)
                    if left is None:
                        if progress is not None:
                            progress.finish(f"{piece.name()}: done by another process")
                        continue
                    backbone = networks.get(piece.backbone)
                    if progress is None:
                        progress = forecast_sweep(sweep, pieces, backbone, dataset, show_bar)
                        until_done.callback(progress.close)
                    ranks.from_first(left)
                    probed = probe_timestep(sweep, left, backbone, dataset, progress.advance)
                    _record(probed, left, store)
                    progress.finish(_outcome(probed, left, dataset, sweep.grid.timeless))
                    del backbone  # so that the slot can drop it
    ranks.from_first(None)


def follow(sweep: ResolvedSweep, dataset: LabelledSet) -> None:
    """What the other ranks do: their share of each piece that rank 0 takes up."""
    networks = NetworkSlot(sweep.device)
    while (piece := ranks.from_first(None)) is not None:
        assert isinstance(piece, Piece)
        probe_timestep(sweep, piece, networks.get(piece.backbone), dataset, lambda *_: None)


def _record(probed: list[Probed], piece: Piece, store: CellStore) -> None:
    done = store.done(piece.control)
    for result in probed:
        if result.cell.key not in done:
            store.write(result.cell, result.masks, piece.control)


def _outcome(probed: list[Probed], piece: Piece, dataset: LabelledSet, timeless: bool) -> str:
    """The best block of a piece, in a few words."""
    ignore_label = dataset.classes.ignore_label
    scores = {result.cell.block: float(miou(result.cell.counts, ignore_label)) for result in probed}
    best = max(scores, key=lambda block: scores[block])
    return f"{piece.name(timeless)}: best block {best}, miou {100 * scores[best]:.1f}"


def _timesteps(pieces: Iterable[Piece]) -> list[int]:
    return [piece.timestep for piece in pieces if not piece.control]


def _log_grid(sweep: ResolvedSweep, pieces: list[Piece]) -> None:
    grid = sweep.grid
    blocks, timesteps, seeds = len(grid.blocks), len(grid.timesteps), len(grid.seeds)
    if grid.timeless:
        log.info(
            "grid: %d blocks x %d seeds = %d cells; no timesteps", blocks, seeds, grid.num_cells
        )
        return
    log.info(
        "grid: %d blocks x %d timesteps x %d seeds = %d cells",
        *(blocks, timesteps, seeds, grid.num_cells),
    )
    log.info("to do: %d of %d timesteps", len(_timesteps(pieces)), timesteps)
