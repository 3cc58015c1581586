"""Names of the blocks and timesteps of a grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_TIMESTEP = "-"
"""The timestep in tables of a network without timesteps."""


@dataclass(frozen=True)
class Numbering:
    """Describes the cells of a grid to people.

    order: meaning of the numbers of blocks. timeless: the network has no timesteps, so that its
    grid is a single column, whose t has no meaning. names: number of a block -> its name, which is
    shown only without timesteps.
    """

    order: str = "0 = deepest"
    timeless: bool = False
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, record: Mapping[str, Any] | None) -> "Numbering":
        """Read what `record` returned; None, in older sweeps, is a diffusion model's decoder."""
        if record is None:
            return cls()
        names = dict(enumerate(map(str, record["names"])))
        return cls(str(record["order"]), bool(record["timeless"]), names)

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = [self.names[index] for index in sorted(self.names)]
        return {"order": self.order, "timeless": self.timeless, "names": names}

    def block(self, block: int) -> str:
        """'block 3', or 'block 3 (layer3)' if its name is shown."""
        name = self.names.get(block) if self.timeless else None
        return f"block {block} ({name})" if name else f"block {block}"

    def cell(self, block: int, timestep: int, separator: str = ", ") -> str:
        """'block 3, t = 50', or the block only if there are no timesteps."""
        return self.block(block) + ("" if self.timeless else f"{separator}t = {timestep}")

    def short(self, block: int, timestep: int) -> str:
        """'b3, t50'."""
        return f"b{block}" if self.timeless else f"b{block}, t{timestep}"

    def timestep(self, timestep: int) -> int | str:
        """The timestep in a table."""
        return NO_TIMESTEP if self.timeless else timestep
