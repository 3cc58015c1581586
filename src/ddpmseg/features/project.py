"""A linear layer on the pixel vectors of whole images, without building the vectors.

A linear layer commutes with bilinear resizing, so it is applied to the native maps, and its few
outputs are resized and summed. Equal to resize, concatenate, multiply, up to rounding.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps


class Projection:
    """weight @ vector + bias at every pixel, in `dtype`; weights are sorted and cast once."""

    def __init__(
        self,
        layout: FeatureLayout,
        weight: Float[Tensor, "o d"],
        bias: Float[Tensor, " o"],
        dtype: torch.dtype,
    ) -> None:
        self.image_size, self.num_outputs = layout.image_size, len(weight)
        self._weights = {
            size: weight[:, layout.columns(size).to(weight.device)].to(dtype)
            for size in layout.groups
        }
        self._bias = bias.to(dtype)

    def native(self, maps: NativeMaps) -> dict[int, Float[Tensor, "n r r o"]]:
        """The layer on each group of maps; the sum of all, resized, is its output."""
        largest = max(self._weights)
        # The weights of a resizing sum to 1, so a bias may be added before it.
        return {
            size: F.linear(maps.groups[size], weight, self._bias if size == largest else None)
            for size, weight in self._weights.items()
        }

    def output(
        self, native: dict[int, Float[Tensor, "n r r o"]], some: slice = slice(None)
    ) -> Float[Tensor, "n s s some"]:
        """Some of the outputs; may overwrite those in `native`.

        Fewer at a time stay in the processor's cache while they are resized and summed.
        """
        sizes = sorted(native)
        total = resized(native[sizes[0]][..., some], self.image_size)
        for size in sizes[1:]:
            total += resized(native[size][..., some], self.image_size)
        return total

    def __call__(self, maps: NativeMaps) -> Float[Tensor, "n s s o"]:
        return self.output(self.native(maps))


def resized(values: Float[Tensor, "n r r c"], size: int) -> Float[Tensor, "n s s c"]:
    """Bilinear, align_corners=False; the values themselves where they have that size already."""
    if values.shape[1] == size:
        return values
    channels_first = values.permute(0, 3, 1, 2)
    found = F.interpolate(channels_first, (size, size), mode="bilinear", align_corners=False)
    return found.permute(0, 2, 3, 1)
