"""The labelled pixels that heads are fitted to, and which of them a training step sees."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor

from ddpmseg.errors import DataError
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.protocols import Protocol
from ddpmseg.randomness import EpochShuffle, keyed_generator

TABLE_BYTES = 2**29
"""Up to this size the vectors of all training pixels are kept instead of interpolated anew."""


class PixelVectors:
    """Vectors of pixels by position, see `LabelledPixels`.

    Where a training draws more pixels than there are, and all their vectors take no more than
    `TABLE_BYTES`, each is interpolated once and kept in the dtype of the maps; the values are the
    same either way, since that is the dtype they are interpolated in.
    """

    def __init__(self, maps: NativeMaps, num_draws: int) -> None:
        self.maps = maps
        self.per_image = maps.layout.image_size**2
        rows = len(maps) * self.per_image
        small = rows * maps.layout.dim * maps.dtype.itemsize <= TABLE_BYTES
        self.table = self._all() if small and num_draws > rows else None

    def __call__(self, positions: Int[Tensor, "*p"]) -> Float[Tensor, "*p d"]:
        """In the dtype of the maps, on their device."""
        flat = positions.flatten().to(self.maps.device)
        if self.table is not None:
            vectors = self.table.index_select(0, flat)
        else:
            vectors = self.maps.pixel_vectors(flat // self.per_image, flat % self.per_image)
        return vectors.view(*positions.shape, -1)

    def _all(self) -> Float[Tensor, "p d"]:
        maps, count = self.maps, self.per_image
        table = torch.empty(
            len(maps) * count, maps.layout.dim, dtype=maps.dtype, device=maps.device
        )
        pixels = torch.arange(count, device=maps.device)
        for image in range(len(maps)):
            rows = table[image * count : (image + 1) * count]
            maps.pixel_vectors(torch.full_like(pixels, image), pixels, out=rows)
        return table


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
        self._shuffles: dict[tuple[int, ...], EpochShuffle] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def vectors(
        self, maps: NativeMaps, count: int = 2**14
    ) -> Iterator[tuple[Float32[Tensor, "p d"], Int64[Tensor, " p"]]]:
        """Vectors and labels of all labelled pixels, `count` at a time, on the device of the maps.

        maps: of the images of the masks, in their order.
        """
        per_image = maps.layout.image_size**2
        labels = self.labels.to(maps.device)
        for positions, some in zip(
            self.positions.to(maps.device).split(count), labels.split(count), strict=True
        ):
            yield maps.pixel_vectors(positions // per_image, positions % per_image).float(), some

    def batch(
        self, step: int, protocol: Protocol, members: int, seed: int
    ) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
        """Positions and labels of a step: (p,) if members share batches, else (m, p)."""
        if protocol.balance:
            chosen = self._balanced(step, protocol, members, seed)
        elif protocol.shared_batches:
            chosen = self._shuffled(step, protocol.batch_size, seed)
        else:
            chosen = torch.stack(
                [
                    self._shuffled(step, protocol.batch_size, seed, member)
                    for member in range(members)
                ]
            )
        return self.positions[chosen], self.labels[chosen]

    def _shuffled(self, step: int, batch_size: int, *key: int) -> Tensor:
        shuffle = self._shuffles.get((batch_size, *key))
        if shuffle is None:
            shuffle = self._shuffles[batch_size, *key] = EpochShuffle(len(self), batch_size, *key)
        return shuffle.batch(step)

    def sample(self, count: int, seed: int) -> Int[Tensor, " p"]:
        """Positions of `count` random labelled pixels, or of all where there are fewer."""
        order = torch.randperm(len(self), generator=keyed_generator(seed, "sample"))
        return self.positions[order[:count]]

    def stratified(
        self, count: int, balance: float, seed: int
    ) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Float[Tensor, " p"]]:
        """About `count` pixels: positions, labels, and how many pixels each stands for.

        A class with n pixels gets a share in proportion to n ** (1 - balance), at least one pixel
        and at most all it has.
        """
        shares = self.counts.double() ** (1 - balance)
        drawn = (count * shares / shares.sum()).round().long().clamp(min=1)
        drawn = torch.minimum(drawn, self.counts)
        firsts = self.counts.cumsum(0) - self.counts
        chosen = [
            first
            + torch.randperm(total, generator=keyed_generator(seed, "stratified", label))[:few]
            for label, first, total, few in zip(
                self.classes.tolist(), firsts, self.counts.tolist(), drawn.tolist(), strict=True
            )
        ]
        indices = torch.cat(chosen)
        weights = (self.counts.double() / drawn).repeat_interleave(drawn).float()
        return self.positions[indices], self.labels[indices], weights

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
