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
from ddpmseg.features.resize import ResizedSum


class Projection:
    """weight @ vector + bias at every pixel, in `dtype`; weights are sorted and cast once."""

    def __init__(
        self,
        layout: FeatureLayout,
        weight: Float[Tensor, "o d"],
        bias: Float[Tensor, " o"],
        dtype: torch.dtype,
    ) -> None:
        self.num_outputs, self._bias = len(weight), bias.to(dtype)
        self._weights = {
            size: weight[:, layout.columns(size).to(weight.device)].to(dtype)
            for size in layout.groups
        }
        self._resized_sum = ResizedSum(layout.groups, layout.image_size, dtype, weight.device)

    def native(self, maps: NativeMaps) -> dict[int, Float[Tensor, "n r r o"]]:
        """The layer on each group of maps; the sum of all, resized, is its output."""
        largest = max(self._weights)
        # The weights of a resizing sum to 1, so a bias may be added before it.
        return {
            size: F.linear(maps.groups[size], weight, self._bias if size == largest else None)
            for size, weight in self._weights.items()
        }

    def output(
        self, native: dict[int, Float[Tensor, "n r r o"]], image: int, some: slice = slice(None)
    ) -> Float[Tensor, "s s some"]:
        """Some of the outputs of one image; may share memory with `native`.

        Fewer at a time stay in the processor's cache while they are resized and summed.
        """
        return self._resized_sum({size: part[image, ..., some] for size, part in native.items()})

    def __call__(self, maps: NativeMaps) -> Float[Tensor, "n s s o"]:
        native = self.native(maps)
        return torch.stack([self.output(native, image) for image in range(len(maps))])
