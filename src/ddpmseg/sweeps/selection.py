"""Search for a set of blocks and timesteps under a budget, given a score of any set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Chosen = tuple[tuple[int, ...], tuple[int, ...]]
"""Blocks and timesteps, both ascending; every block is read out at every timestep."""


@dataclass(frozen=True)
class Budget:
    """At most so many forward passes per image (timesteps), and features of a pixel vector."""

    passes: int
    channels: int

    def allows(self, chosen: Chosen, width: Mapping[int, int]) -> bool:
        return len(chosen[1]) <= self.passes and channels(chosen, width) <= self.channels


def channels(chosen: Chosen, width: Mapping[int, int]) -> int:
    """Features of a pixel vector; `width` has those of each block."""
    blocks, timesteps = chosen
    return len(timesteps) * sum(width[block] for block in blocks)


def paper_rule(num_blocks: int, blocks: Sequence[int], timesteps: Sequence[int]) -> Chosen:
    """The paper's choice for a network of `num_blocks`, or what comes nearest among those given.

    Blocks 5, 6, 7, 8, 12 of 18 at t = 50, 150, 250. In other networks four blocks from the same
    relative depth on, and one further out: 3, 4, 5, 6, 8 of 12. Of two equally near the smaller.
    """
    first, last = num_blocks * 5 // 18, num_blocks * 12 // 18

    def nearest(wanted: Sequence[int], given: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted({min(given, key=lambda x: (abs(x - one), x)) for one in wanted}))

    return (
        nearest([*range(first, first + 4), last], blocks),
        nearest([50, 150, 250], timesteps),
    )


class Search:
    """Greedy search, one axis at a time; `score` is asked once for every set.

    Of equally good sets the one with fewer passes, then fewer channels is kept, so that nothing is
    added that does not help.
    """

    def __init__(
        self, score: Callable[[Chosen], float], width: Mapping[int, int], budget: Budget
    ) -> None:
        self._score, self.width, self.budget = score, width, budget
        self.scores: dict[Chosen, float] = {}

    def run(self, start: Chosen, timesteps: Sequence[int], max_rounds: int = 3) -> Chosen:
        """The best set found from `start`, which need not keep to the budget itself.

        In each round timesteps are built up for the blocks, then blocks for the timesteps, then
        single timesteps are exchanged. Raises ValueError where not even one cell is allowed.
        """
        best, seen = self._fitting(start), None
        for _ in range(max_rounds):
            if best == seen:
                break
            seen = best
            best = self._grown(best, axis=1, among=timesteps)
            best = self._grown(best, axis=0, among=sorted(self.width))
            best = self._exchanged(best, timesteps)
        return best

    def _fitting(self, start: Chosen) -> Chosen:
        """`start` without its last timesteps, then its last blocks, as the budget asks for."""
        if self.budget.passes < 1:
            raise ValueError("the budget allows no cell")
        blocks, timesteps = start[0], start[1][: self.budget.passes]
        while not self.budget.allows((blocks, timesteps), self.width):
            if len(timesteps) > 1:
                timesteps = timesteps[:-1]
            elif len(blocks) > 1:
                blocks = blocks[:-1]
            else:
                cheapest = min(self.width, key=lambda block: self.width[block])
                if self.width[cheapest] > self.budget.channels:
                    raise ValueError("the budget allows no cell")
                blocks = (cheapest,)
        return blocks, timesteps

    def _grown(self, current: Chosen, axis: int, among: Sequence[int]) -> Chosen:
        """Build one axis up from nothing, the best number first; the best of all on the way."""
        chosen: tuple[int, ...] = ()
        found = [current]
        while True:
            options = [
                _with(current, axis, (*chosen, number)) for number in among if number not in chosen
            ]
            allowed = [option for option in options if self.budget.allows(option, self.width)]
            if not allowed:
                return self._best(found)
            best = self._best(allowed)
            chosen = best[axis]
            found.append(best)

    def _exchanged(self, current: Chosen, timesteps: Sequence[int]) -> Chosen:
        """Exchange single timesteps as long as that helps."""
        while True:
            own = current[1]
            others = [t for t in timesteps if t not in own]
            options = [
                _with(current, 1, tuple(other if t == out else t for t in own))
                for out in own
                for other in others
            ]
            best = self._best([current, *options])
            if best == current:
                return current
            current = best

    def _best(self, options: Sequence[Chosen]) -> Chosen:
        for option in options:
            if option not in self.scores:
                self.scores[option] = self._score(option)
        return min(
            options,
            key=lambda option: (
                -self.scores[option],
                len(option[1]),
                channels(option, self.width),
                option,
            ),
        )


def _with(chosen: Chosen, axis: int, numbers: Sequence[int]) -> Chosen:
    """`chosen` with other blocks (axis 0) or timesteps (axis 1)."""
    ordered = tuple(sorted(numbers))
    return (ordered, chosen[1]) if axis == 0 else (chosen[0], ordered)
