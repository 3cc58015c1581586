"""The settings of heads, one dataclass for each family; they check and build what they describe.

Free of torch, which completing a command line must not wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.settings import at_least, one_of

if TYPE_CHECKING:
    from ddpmseg.features.layout import FeatureLayout
    from ddpmseg.heads.base import Head
    from ddpmseg.heads.probe_set import ProbeSet
    from ddpmseg.heads.probes import StackedProbes
    from ddpmseg.heads.protocols import Protocol

VOTES = ("hard", "soft")


@dataclass
class HeadConfig:
    """What reads classes out of pixel vectors.

    The dataclass of a family derives from this one, adds its settings, and says in `head_type` and
    `build` which class they describe.

    ensemble: whether `build` makes `members` classifiers, which vote.
    """

    ensemble: ClassVar[bool] = False

    name: str = MISSING
    """Of the family."""
    members: int = 1
    """Classifiers of an ensemble."""
    vote: str = "hard"
    """'hard': majority of the members' labels (the paper); 'soft': of their mean probability."""

    @classmethod
    def head_type(cls) -> "type[Head]":
        """The class that `build` constructs, imported now: a head on disk is read by it."""
        raise NotImplementedError(f"{cls.__name__} lacks `head_type`")

    def build(self, dim: int, num_classes: int, seed: int) -> "Head":
        """A head for vectors of `dim` features; `seed` draws its first weights, if it has any."""
        raise NotImplementedError(f"{type(self).__name__} lacks `build`")

    def build_probes(
        self, layout: "FeatureLayout", num_classes: int, seeds: Sequence[int]
    ) -> "ProbeSet":
        """The probes of a sweep: a head for every map of the layout and every seed.

        A family whose heads can be fitted or read together, at less cost, gives its own.
        """
        from ddpmseg.heads.probe_set import SeparateProbes

        return SeparateProbes(layout, num_classes, seeds, self.build)

    def build_protocol(self) -> "Protocol":
        """The recipe of a head that is trained by gradient descent."""
        from ddpmseg.heads.protocols import choose_protocol

        return choose_protocol("fast")

    def num_parameters(self, dim: int, num_classes: int) -> int:
        """Numbers that the head keeps at least, for a forecast before it is built."""
        return self.members * dim * num_classes

    def check(self) -> None:
        """Raise ConfigError for a setting out of its range; reads no files."""
        kind = self.head_type().kind
        if self.name != kind:
            raise ConfigError(
                f"`head.name={self.name}`: these settings build a head of the kind '{kind}'. Leave "
                "`head.name` as it is, and choose another `head`."
            )
        at_least("head.members", self.members, 1)
        one_of("head.vote", self.vote, VOTES)
        if self.members > 1 and not self.ensemble:
            raise ConfigError(
                f"`head.members={self.members}`: `head={self.name}` is a single classifier. Leave "
                "`head.members` at 1."
            )

    def check_probe(self) -> None:
        """Raise ConfigError for settings that `sweep.head` cannot have."""
        if self.members != 1:
            raise ConfigError(
                f"`sweep.head.members={self.members}`: the probe of a cell is a single member. "
                "For error bars set `sweep.seeds`, as in `sweep.seeds=[0,1,2]`."
            )

    @property
    def comes_fitted(self) -> bool:
        """Whether `build` gives a head that needs no labelled images."""
        return False

    def without_files(self) -> "HeadConfig":
        """The same, but for files that a fitted head is read from."""
        return self

    @property
    def source(self) -> str:
        """How messages name a head that `build` gives."""
        return f"`head={self.name}`"

    @property
    def label(self) -> str:
        """How tables and runs name the head, before its shape is known."""
        return self.name

    @property
    def summary(self) -> str:
        """The head in a few words."""
        return f"{self.members} members, {self.label}" if self.members > 1 else self.label

    @property
    def exact(self) -> bool:
        """Whether it is trained in 32 bits where `trainer.precision` leaves the choice."""
        return False

    def record(self) -> dict[str, str]:
        """The columns `head_sha256` and `protocol` of results.csv."""
        return {"head_sha256": "", "protocol": ""}


@dataclass
class MlpConfig(HeadConfig):
    """The ensemble that reads classes out of pixel vectors."""

    ensemble: ClassVar[bool] = True

    name: str = "mlp"
    members: int = 10
    hidden: list[int] | None = None
    """Hidden widths; null: [128, 32] under 30 outputs, else [256, 128]; []: a linear head."""
    protocol: str = "fast"
    """Training recipe: 'paper' (the original's) or 'fast'."""
    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    """These three, where given, replace the protocol's own."""
    checkpoint: str | None = None
    """Folder of an ensemble in the original code's files (model_0.pth, ...): its first `members`
    are tested, and nothing is trained. null: train."""
    checkpoint_sha256: str | None = None
    """Computed, not given: a digest of these files. So other files in the same folder make another
    run, and the results of the two are never taken for each other's."""

    @classmethod
    def head_type(cls) -> "type[Head]":
        from ddpmseg.heads.mlp import StackedMLP

        return StackedMLP

    def build(self, dim: int, num_classes: int, seed: int) -> "Head":
        """Raises CheckpointError for files that are no ensemble, or one of other `head.hidden`."""
        from ddpmseg.heads.mlp import StackedMLP

        if self.checkpoint is not None:
            return self._read(self.checkpoint)
        return StackedMLP(dim, num_classes, self.members, self.widths(num_classes), seed)

    def build_probes(
        self, layout: "FeatureLayout", num_classes: int, seeds: Sequence[int]
    ) -> "StackedProbes":
        from ddpmseg.heads.probes import StackedProbes

        return StackedProbes(layout, num_classes, self.widths(num_classes), seeds)

    def widths(self, num_classes: int) -> Sequence[int]:
        """Hidden widths: those given, else the paper's."""
        from ddpmseg.heads.mlp import paper_hidden

        return paper_hidden(num_classes) if self.hidden is None else self.hidden

    def num_parameters(self, dim: int, num_classes: int) -> int:
        widths = [dim, *self.widths(num_classes), num_classes]
        return self.members * sum(into * out for into, out in pairwise(widths))

    def build_protocol(self) -> "Protocol":
        from ddpmseg.heads.protocols import choose_protocol

        return choose_protocol(self.protocol, self.max_steps, self.batch_size, self.learning_rate)

    def check(self) -> None:
        super().check()
        self.build_protocol()
        for width in self.hidden or []:
            at_least("head.hidden", width, 1)

    def check_probe(self) -> None:
        super().check_probe()
        if self.checkpoint is not None:
            raise ConfigError(
                f"`sweep.head.checkpoint={self.checkpoint}`: the probes of a sweep are trained, "
                "each on a single map. `ddpmseg train head.checkpoint=...` tests a finished "
                "ensemble."
            )

    @property
    def comes_fitted(self) -> bool:
        return self.checkpoint is not None

    def without_files(self) -> "MlpConfig":
        return replace(self, checkpoint=None, checkpoint_sha256=None)

    @property
    def source(self) -> str:
        return super().source if self.checkpoint is None else f"`head.checkpoint={self.checkpoint}`"

    @property
    def label(self) -> str:
        return "linear" if self.hidden == [] else "-".join(["mlp", *map(str, self.hidden or [])])

    @property
    def summary(self) -> str:
        return f"{self.members} members, protocol {self.protocol}"

    @property
    def exact(self) -> bool:
        return self.protocol == "paper"

    def record(self) -> dict[str, str]:
        protocol = self.protocol if self.checkpoint is None else ""
        return {"head_sha256": self.checkpoint_sha256 or "", "protocol": protocol}

    def _read(self, folder: str) -> "Head":
        from ddpmseg.heads.official import read_ensemble

        head = read_ensemble(Path(folder).expanduser(), self.members)
        if self.hidden is not None and tuple(self.hidden) != head.hidden:
            raise CheckpointError(
                f"{self.source}: its classifiers have the hidden widths {list(head.hidden)}, "
                f"`head.hidden` is {list(self.hidden)}. Set `head.hidden=null` to take theirs."
            )
        return head
