"""What the blocks and timesteps of a grid are called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_TIMESTEP = "-"
"""Stands in tables for the timestep of a network that knows none."""


@dataclass(frozen=True)
class Numbering:
    """How the places of a grid are told to people.

    order: what the numbers of blocks mean. timeless: the network knows no timesteps, so that its
    grid is a single column, whose t means nothing. names: of blocks, by number; told where there
    are no timesteps beside them.
    """

    order: str = "0 = deepest"
    timeless: bool = False
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, record: Mapping[str, Any] | None) -> "Numbering":
        """What `record` gave; of a sweep that recorded none, a diffusion model's decoder."""
        if record is None:
            return cls()
        return cls(record["order"], record["timeless"], dict(enumerate(record["names"])))

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = [self.names[index] for index in sorted(self.names)]
        return {"order": self.order, "timeless": self.timeless, "names": names}

    def block(self, block: int) -> str:
        """'block 3', with its name ('layer3') where it has one that is told."""
        name = self.names.get(block) if self.timeless else None
        return f"block {block} ({name})" if name else f"block {block}"

    def place(self, block: int, timestep: int, between: str = ", ") -> str:
        """'block 3, t = 50', or the block alone where there are no timesteps."""
        return self.block(block) + ("" if self.timeless else f"{between}t = {timestep}")

    def short(self, block: int, timestep: int) -> str:
        """'b3, t50'."""
        return f"b{block}" if self.timeless else f"b{block}, t{timestep}"

    def timestep(self, timestep: int) -> int | str:
        """As a table lists it."""
        return NO_TIMESTEP if self.timeless else timestep
