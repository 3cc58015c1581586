"""Which cells a sweep asks for, which are done, and in which pieces the rest is computed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from ddpmseg.backbones.pixels.settings import PixelsConfig
from ddpmseg.composition.build import as_training
from ddpmseg.config import BackboneConfig, SweepConfig, TrainConfig
from ddpmseg.numbering import NO_TIMESTEP
from ddpmseg.records.cells import CellStore, Key


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
        """Block-major, seeds within: the order of the members of `ddpmseg.heads.probes.Probes`."""
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


def dry_run(config: SweepConfig, store: CellStore, timeless: bool = False) -> list[str]:
    """A line for every cell of the request: whether it is done.

    `timeless`: of a network without timesteps.
    """
    lines, finished = [], 0
    for piece in pieces_of(config):
        done = store.done(piece.control)
        shown = NO_TIMESTEP if timeless else piece.timestep
        for block, timestep, seed in piece.keys:
            there = (block, timestep, seed) in done
            finished += there
            state = "done" if there else "to do"
            name = f"  ({piece.control})" if piece.control else ""
            lines.append(f"block {block:>2}  t = {shown:>3}  seed {seed}  {state}{name}")
    return [*lines, f"{len(lines)} cells, {finished} done, in '{store.folder}'"]


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
