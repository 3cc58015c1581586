"""Which cells a sweep asks for, which are done, and in which pieces the rest is computed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from ddpmseg.backbones.pixels.settings import PixelsConfig
from ddpmseg.composition.build import as_training
from ddpmseg.config import BackboneConfig, SweepConfig, TrainConfig
from ddpmseg.numbering import NO_TIMESTEP
from ddpmseg.records.cells import CellStore, Key

FEW_CELLS = 24
"""So many are listed one by one."""


@dataclass(frozen=True)
class Piece:
    """The unit of work: all blocks of one timestep, for the seeds that are not done.

    `control` is empty for the cells of the sweep itself.
    """

    control: str
    config: TrainConfig
    seeds: tuple[int, ...]

    @property
    def timestep(self) -> int:
        return self.config.features.timesteps[0]

    @property
    def keys(self) -> list[Key]:
        """Block-major, seeds within: the order of the members of a `ProbeSet`."""
        return list(product(self.config.features.blocks, [self.timestep], self.seeds))


def pieces_to_do(config: SweepConfig, store: CellStore) -> list[Piece]:
    """The pieces that hold a cell without a record, controls last.

    A seed that lacks any block of a timestep is computed for all of them, so that what a cell
    holds never depends on which cells were done before.
    """
    pieces = []
    for whole in pieces_of(config):
        done = store.done(whole.control)
        lacking = {key[2] for key in whole.keys if key not in done}
        if lacking:
            pieces.append(replace(whole, seeds=tuple(sorted(lacking))))
    return pieces


def dry_run(
    config: SweepConfig, store: CellStore, timeless: bool = False, every_cell: bool = False
) -> list[str]:
    """Lines that say how much of the request is done: a summary, then each timestep and control.

    A line for each cell where they are few, or `every_cell` is set. `timeless`: of a network
    without timesteps.
    """
    pieces = list(pieces_of(config))
    done = [set(piece.keys) & set(store.done(piece.control)) for piece in pieces]
    count, finished = sum(len(piece.keys) for piece in pieces), sum(map(len, done))
    summary = f"{count} cells, {finished} done, {count - finished} to do, in '{store.folder}'"
    if every_cell or count <= FEW_CELLS:
        return [
            summary,
            *(
                _cell_line(piece, key, key in there, timeless)
                for piece, there in zip(pieces, done, strict=True)
                for key in piece.keys
            ),
        ]
    lines = [
        f"{_piece_name(piece, timeless):<14}  {len(there):>3} of {len(piece.keys)} done"
        for piece, there in zip(pieces, done, strict=True)
    ]
    return [summary, *lines, "hydra.verbose=true lists every cell"]


def _piece_name(piece: Piece, timeless: bool) -> str:
    if piece.control:
        return f"control {piece.control}"
    return "all blocks" if timeless else f"t = {piece.timestep:>3}"


def _cell_line(piece: Piece, key: Key, is_done: bool, timeless: bool) -> str:
    block, timestep, seed = key
    shown = NO_TIMESTEP if timeless else timestep
    name = f"  ({piece.control})" if piece.control else ""
    state = "done" if is_done else "to do"
    return f"block {block:>2}  t = {shown:>3}  seed {seed}  {state}{name}"


def pieces_of(config: SweepConfig) -> Iterator[Piece]:
    """All pieces of the request, controls last."""
    sweep = config.sweep
    assert sweep.blocks is not None  # `checked_sweep` lists them
    assert sweep.timesteps is not None
    for timestep in sweep.timesteps:
        yield Piece("", as_training(config, sweep.blocks, [timestep]), tuple(sweep.seeds))
    for control in sweep.controls:
        backbone = _control(control, config)
        if backbone is None:
            continue
        other = replace(config, backbone=backbone)
        blocks, timestep = sweep.blocks, min(sweep.timesteps)
        if control == "pixels":
            blocks, timestep = [0], 0
        yield Piece(control, as_training(other, blocks, [timestep]), tuple(sweep.seeds))


def _control(name: str, config: SweepConfig) -> BackboneConfig | None:
    """The backbone of a control; None where it would be that of the sweep, or there is none."""
    backbone = config.backbone
    if name == "pixels":
        colours = PixelsConfig(name=name, image_size=config.dataset.image_size)
        return None if backbone._target_ == colours._target_ else colours
    bare = backbone.as_untrained()
    if bare == backbone:
        return None
    # Its name stays: it may say which network to build.
    return bare
