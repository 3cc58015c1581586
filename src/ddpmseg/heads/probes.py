"""The probes of a sweep as one stacked MLP: trained and read out together."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.resize import ResizedSum
from ddpmseg.heads.base import Train
from ddpmseg.heads.mlp import initialise
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.probe_set import ProbeSet
from ddpmseg.heads.protocols import Protocol
from ddpmseg.heads.stacked import StackedBatchNorm, StackedHead, StackedLinear, folded


class StackedProbes(StackedHead, ProbeSet):
    """Classifiers that each see one map of a pixel vector: members are maps x seeds, map-major.

    The probe of a map and a seed starts as the only member of a `StackedMLP` on that map alone
    would, and sees the same pixels. What trains beside it changes it by rounding only, which 300
    steps of training grow to differences of 0.1 to 0.24 points of mIoU.
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
        self.layout, self.seeds, self.num_fits = layout, tuple(seeds), 1
        widths = [*hidden, num_classes]
        # One parameter for the first layers on all maps: many small ones cost a step much time.
        self.first_weight = nn.Parameter(torch.empty(len(seeds), widths[0], layout.dim))
        self.first_bias = nn.Parameter(torch.zeros(members, widths[0]))
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

    def first(self, vectors: Float[Tensor, "*s p d"]) -> Float[Tensor, "m h p"]:
        """Vectors are the same for all seeds, or one set for each."""
        channels = [spec.channels for spec in self.layout.maps]
        # In the dtype of the vectors, all at once.
        weights = self.first_weight.to(vectors.dtype).split(channels, dim=-1)
        values = vectors.split(channels, dim=-1)
        products = [torch.matmul(w, v.mT) for w, v in zip(weights, values, strict=True)]
        return torch.cat(products).add_(self.first_bias.to(products[0].dtype)[:, :, None])

    def batch(
        self, step: int, pixels: LabelledPixels, protocol: Protocol, seed: int
    ) -> tuple[Int[Tensor, "*s p"], Int[Tensor, "*s p"]]:
        """Those that a lone member with each of the seeds would see: (p,) for one, else (s, p)."""
        batches = [pixels.batch(step, protocol, 1, own) for own in self.seeds]
        positions, labels = zip(*batches, strict=True)
        shape = (len(self.seeds), -1) if len(self.seeds) > 1 else (-1,)
        return torch.stack(positions).view(shape), torch.stack(labels).view(shape)

    def fit(self, maps: NativeMaps, pixels: LabelledPixels, seed: int, train: Train) -> None:
        train(self, maps, pixels, seed)

    def label_reader(self, dtype: torch.dtype) -> "ProbeReader":
        return ProbeReader(self, dtype)

    def member_views(self, member: int) -> dict[str, Tensor]:
        index, seed = divmod(member, len(self.seeds))
        later = {
            **self.linears.state_dict(prefix="linears."),
            **self.norms.state_dict(prefix="norms."),
        }
        return {
            "first.weight": self.first_weight.detach()[seed][:, self.layout.slices[index]],
            "first.bias": self.first_bias.detach()[member],
            **{key: value[member] for key, value in later.items()},
        }


class ProbeReader:
    """Trained probes on whole images, in the dtype of the maps.

    The first layer is applied to the native map and its outputs are resized (see
    `ddpmseg.features.project`); batch normalisations are folded into the layer after them, once.
    """

    @torch.no_grad()
    def __init__(self, probes: StackedProbes, dtype: torch.dtype) -> None:
        self.layout, self.members = probes.layout, probes.members
        self._firsts, self._later = [], folded(probes.later, dtype)
        biases = probes.first_bias.view(len(probes.layout.maps), len(probes.seeds), -1)
        for columns, bias in zip(probes.layout.slices, biases, strict=True):
            weight = probes.first_weight[..., columns] * probes.input_scale[columns]
            bias = bias - weight @ probes.input_mean[columns]
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
