"""Which labelled pixels a training step sees: a pure function of the step."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ddpmseg.errors import DataError
from ddpmseg.heads.protocols import Protocol
from ddpmseg.randomness import keyed_generator
from ddpmseg.training.steps import shuffled_indices


class LabelledPixels:
    """All pixels of the training masks that have a label, sorted by it.

    `positions` counts pixels over all images: (image * S + row) * S + column. int64.
    Raises DataError when no pixel has a label.
    """

    def __init__(self, masks: UInt8[Tensor, "n s s"], ignore_label: int) -> None:
        labels = masks.flatten()
        positions = (labels != ignore_label).nonzero()[:, 0]
        if not len(positions):
            raise DataError(
                f"no training pixel has a label: all {labels.numel()} pixels of {len(masks)} masks "
                f"carry the ignore label {ignore_label}."
            )
        labels, order = labels[positions].long().sort(stable=True)
        self.labels, self.positions = labels, positions[order]
        self.classes, self.counts = labels.unique_consecutive(return_counts=True)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, step: int, protocol: Protocol, members: int, seed: int
    ) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
        """Positions and labels of a step: (p,) if members share batches, else (m, p)."""
        if protocol.balance:
            chosen = self._balanced(step, protocol, members, seed)
        elif protocol.shared_batches:
            chosen = shuffled_indices(step, protocol.batch_size, len(self), seed)
        else:
            chosen = torch.stack(
                [
                    shuffled_indices(step, protocol.batch_size, len(self), seed, member)
                    for member in range(members)
                ]
            )
        return self.positions[chosen], self.labels[chosen]

    def sample(self, count: int, seed: int) -> Int[Tensor, " p"]:
        """Positions of `count` random labelled pixels, or of all where there are fewer."""
        order = torch.randperm(len(self), generator=keyed_generator(seed, "sample"))
        return self.positions[order[:count]]

    def _balanced(self, step: int, protocol: Protocol, members: int, seed: int) -> Tensor:
        """Draw a class by its share, then one of its pixels, with replacement."""
        shape = (protocol.batch_size,)
        if not protocol.shared_batches:
            shape = (members, protocol.batch_size)
        generator = keyed_generator(seed, step)
        shares = self.counts.double() ** (1 - protocol.balance)
        ends = (shares / shares.sum()).cumsum(0)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
        which = torch.searchsorted(ends, drawn).clamp(max=len(ends) - 1)
        first = self.counts.cumsum(0) - self.counts
        within = torch.rand(shape, generator=generator, dtype=torch.float64)
        return first[which] + (within * self.counts[which]).long()
