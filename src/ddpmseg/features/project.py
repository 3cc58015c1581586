"""Applies a linear layer to the pixel vectors of whole images without building the vectors.

A linear layer commutes with bilinear resizing. So it is applied to the native maps, and its few
outputs are resized and summed. Up to rounding, this equals resize, concatenate, multiply.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.resize import ResizedSum


class Projection:
    """weight @ vector + bias at every pixel, in `dtype`; weights are permuted and cast once."""

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
        """The layer applied to each group of maps; its output is the sum of all, resized."""
        largest = max(self._weights)
        # Resizing weights sum to 1, so the bias may be added before resizing.
        return {
            size: F.linear(maps.groups[size], weight, self._bias if size == largest else None)
            for size, weight in self._weights.items()
        }

    def output(
        self, native: dict[int, Float[Tensor, "n r r o"]], image: int, outputs: slice = slice(None)
    ) -> Float[Tensor, "s s outputs"]:
        """The given outputs of one image; may share memory with `native`.

        A few at a time stay in the processor's cache while they are resized and summed.
        """
        return self._resized_sum({size: part[image, ..., outputs] for size, part in native.items()})

    def __call__(self, maps: NativeMaps) -> Float[Tensor, "n s s o"]:
        native = self.native(maps)
        return torch.stack([self.output(native, image) for image in range(len(maps))])
