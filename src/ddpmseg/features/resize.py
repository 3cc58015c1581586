"""Bilinear resizing as matrix products, which run on a processor's 16-bit matrix units."""

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ddpmseg.features.bilinear import axis_matrix


class ResizedSum:
    """The sum of square maps of several sizes, each resized to `image_size`.

    Bilinear, align_corners=False, edges clamped, as in `torch.nn.functional.interpolate`: a row or
    column of the result is a fixed combination of a map's rows or columns. So all maps are resized
    along one axis, and one product resizes the results along the other and sums them.
    """

    def __init__(
        self, sizes: Collection[int], image_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.image_size = image_size
        self._smaller = sorted(size for size in sizes if size != image_size)
        self._matrices = [axis_matrix(size, image_size, dtype).to(device) for size in self._smaller]
        self._all = torch.cat(self._matrices, dim=1) if self._matrices else None

    def __call__(self, maps: Mapping[int, Float[Tensor, "r r c"]]) -> Float[Tensor, "s s c"]:
        """Resize and sum; `maps` has a map for each of `sizes`.

        A single map of `image_size` is returned itself.
        """
        size, whole = self.image_size, maps.get(self.image_size)
        if self._all is None:
            assert whole is not None
            return whole
        first = maps[self._smaller[0]]
        wide = first.new_empty(self._all.shape[1], size, first.shape[-1])
        start = 0
        for side, matrix in zip(self._smaller, self._matrices, strict=True):
            rows = wide[start : start + side]
            torch.bmm(matrix.expand(side, -1, -1), maps[side], out=rows)
            start += side
        flat = wide.flatten(1)
        if whole is None:
            return (self._all @ flat).view(size, size, -1)
        return torch.addmm(whole.reshape(size, -1), self._all, flat).view(size, size, -1)
