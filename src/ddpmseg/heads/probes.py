"""A grid of probes: one small classifier for every map and seed, trained and read out together."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.resize import ResizedSum
from ddpmseg.heads.mlp import initialise
from ddpmseg.heads.stacked import StackedBatchNorm, StackedHead, StackedLinear, folded


class Probes(StackedHead):
    """Classifiers that each see one map of a pixel vector: members are maps x seeds, map-major.

    The probe of a map and a seed starts as the only member of a `StackedMLP` on that map alone
    would, and sees the same pixels: training them together changes nothing but the time it takes.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        num_classes: int,
        hidden: Sequence[int],
        seeds: Sequence[int],
    ) -> None:
        members = len(layout.maps) * len(seeds)
        super().__init__(layout.dim, num_classes, members, tuple(hidden))
        self.layout, self.seeds = layout, tuple(seeds)
        widths = [*hidden, num_classes]
        self.firsts = nn.ModuleList(
            StackedLinear(len(seeds), spec.channels, widths[0]) for spec in layout.maps
        )
        self.linears = nn.ModuleList(
            StackedLinear(members, into, out) for into, out in pairwise(widths)
        )
        for member in range(members):
            weights = [view for key, view in self.member_views(member).items() if "weight" in key]
            initialise([w for w in weights if w.ndim == 2], self.seeds[member % len(seeds)], 0)

    @property
    def later(self) -> list[tuple[StackedBatchNorm, StackedLinear]]:
        pairs = zip(self.norms, self.linears, strict=True)
        return cast(list[tuple[StackedBatchNorm, StackedLinear]], list(pairs))

    def first(self, vectors: Float[Tensor, "*s p d"]) -> Float[Tensor, "p mh"]:
        """Vectors are the same for all seeds, or one set for each."""
        layers = cast(list[StackedLinear], list(self.firsts))
        parts = [
            layer.on_shared(vectors[:, columns])
            if vectors.ndim == 2
            else layer.on_own(vectors[..., columns])
            for layer, columns in zip(layers, self.layout.slices, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def member_views(self, member: int) -> dict[str, Tensor]:
        index, seed = divmod(member, len(self.seeds))
        first = self.firsts[index].state_dict()
        later = {
            **self.linears.state_dict(prefix="linears."),
            **self.norms.state_dict(prefix="norms."),
        }
        return {f"first.{key}": value[seed] for key, value in first.items()} | {
            key: value[member] for key, value in later.items()
        }


class ProbeReader:
    """Trained probes on whole images, in the dtype of the maps.

    The first layer is applied to the native map and its outputs are resized (see
    `ddpmseg.features.project`); batch normalisations are folded into the layer after them, once.
    """

    @torch.no_grad()
    def __init__(self, probes: Probes, dtype: torch.dtype) -> None:
        self.layout, self.members = probes.layout, probes.members
        self._firsts, self._later = [], folded(probes.later, dtype)
        for layer, columns in zip(probes.firsts, probes.layout.slices, strict=True):
            assert isinstance(layer, StackedLinear)
            weight = layer.weight * probes.input_scale[columns]
            bias = layer.bias - weight @ probes.input_mean[columns]
            self._firsts.append((weight.to(dtype), bias.to(dtype)))
        size, device = probes.layout.image_size, probes.input_mean.device
        self._resized = {
            side: ResizedSum([side], size, dtype, device) for side in probes.layout.groups
        }

    @torch.inference_mode()
    def __call__(self, maps: NativeMaps) -> UInt8[Tensor, "m n s s"]:
        """The label each probe gives each pixel: classes 0..K-1, at most 256 of them."""
        size = self.layout.image_size
        labels = torch.empty(
            self.members, len(maps), size, size, dtype=torch.uint8, device=maps.device
        )
        # One image and one probe at a time: what lies between its layers then fits into a cache.
        for image in range(len(maps)):
            member = 0
            for index, (weights, biases) in enumerate(self._firsts):
                native = maps.map(index)[image]
                side = len(native)
                for weight, bias in zip(weights, biases, strict=True):
                    h = self._resized[side]({side: F.linear(native, weight, bias)})
                    for later_weight, later_bias in self._later:
                        h = F.linear(h.relu_(), later_weight[member], later_bias[member])
                    labels[member, image] = h.max(dim=-1).indices
                    member += 1
        return labels
