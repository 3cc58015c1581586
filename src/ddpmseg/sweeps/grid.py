"""Which cells a sweep asks for, which are done, and the pieces in which the rest is computed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from ddpmseg.backbones.pixels.settings import PixelsConfig
from ddpmseg.config import BackboneConfig, FeaturesConfig
from ddpmseg.numbering import NO_TIMESTEP
from ddpmseg.records.cells import CellStore, Key
from ddpmseg.sweeps.resolve import ResolvedSweep

FEW_CELLS = 24
"""So many are listed one by one."""


@dataclass(frozen=True)
class Piece:
    """The unit of work: all blocks of one timestep, for the seeds that are not done.

    control: empty for the cells of the sweep itself. backbone: the settings of its network.
    """

    control: str
    backbone: BackboneConfig
    features: FeaturesConfig
    seeds: tuple[int, ...]

    @property
    def timestep(self) -> int:
        return self.features.timesteps[0]

    @property
    def keys(self) -> list[Key]:
        """Block-major, seeds within: the order of the members of a `ProbeSet`."""
        return list(product(self.features.blocks, [self.timestep], self.seeds))

    def name(self, timeless: bool = False) -> str:
        """What it computes, in a few words."""
        if self.control == "random" and not timeless:
            return f"control random, t = {self.timestep}"
        if self.control:
            return f"control {self.control}"
        return "all blocks" if timeless else f"t = {self.timestep}"


def pieces_to_do(sweep: ResolvedSweep, store: CellStore) -> list[Piece]:
    """The pieces that hold a cell without a record, controls last.

    A seed that lacks any block of a timestep is computed for all of them, so that the content of a
    cell never depends on which cells were done before.
    """
    return [piece for whole in pieces_of(sweep, store) if (piece := left_of(whole, store))]


def left_of(whole: Piece, store: CellStore) -> Piece | None:
    """The piece for the seeds that lack a record; None if all are done."""
    done = store.done(whole.control)
    missing = {key[2] for key in whole.keys if key not in done}
    return replace(whole, seeds=tuple(sorted(missing))) if missing else None


def dry_run(sweep: ResolvedSweep, store: CellStore, every_cell: bool = False) -> list[str]:
    """Lines that say how much of the request is done: a summary, then each timestep and control.

    A line for each cell if they are few, or `every_cell` is set.
    """
    pieces, timeless = list(pieces_of(sweep, store)), sweep.grid.timeless
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
        f"{piece.name(timeless):<22}  {len(there):>3} of {len(piece.keys)} done"
        for piece, there in zip(pieces, done, strict=True)
    ]
    return [summary, *lines, "hydra.verbose=true lists every cell"]


def _cell_line(piece: Piece, key: Key, is_done: bool, timeless: bool) -> str:
    block, timestep, seed = key
    shown = NO_TIMESTEP if timeless else timestep
    name = f"  ({piece.control})" if piece.control else ""
    state = "done" if is_done else "to do"
    return f"block {block:>2}  t = {shown:>3}  seed {seed}  {state}{name}"


def pieces_of(sweep: ResolvedSweep, store: CellStore) -> Iterator[Piece]:
    """All pieces of the request, controls last."""
    grid, backbone = sweep.grid, sweep.config.backbone
    for timestep in grid.timesteps:
        yield Piece("", backbone, sweep.config.sweep.features(grid.blocks, (timestep,)), grid.seeds)
    for control in grid.controls:
        other = _control(control, sweep)
        if other is None:
            continue
        blocks, timestep = grid.blocks, control_timestep(sweep, store)
        if control == "pixels":
            blocks, timestep = (0,), 0
        yield Piece(control, other, sweep.config.sweep.features(blocks, (timestep,)), grid.seeds)


def control_timestep(sweep: ResolvedSweep, store: CellStore) -> int:
    """The timestep of the control 'random'.

    `sweep.control_timestep`; if that is null, the timestep that the folder already has, so that
    later timesteps of the same grid do not move it; else the smallest of the grid.
    """
    given = sweep.config.sweep.control_timestep
    if given is not None:
        return given
    done = [timestep for _, timestep, _ in store.done("random")]
    return min(done or sweep.grid.timesteps)


def _control(name: str, sweep: ResolvedSweep) -> BackboneConfig | None:
    """The backbone of a control; None if it would be that of the sweep, or there is none."""
    backbone = sweep.config.backbone
    if name == "pixels":
        colours = PixelsConfig(name=name, image_size=sweep.config.dataset.image_size)
        return None if backbone._target_ == colours._target_ else colours
    untrained = backbone.as_untrained()
    # Its name stays: it may say which network to build.
    return None if untrained == backbone else untrained
