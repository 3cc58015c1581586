"""The paper's pixel classifier, all members of an ensemble in one module."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.project import Projection
from ddpmseg.heads.base import Reader
from ddpmseg.heads.stacked import StackedBatchNorm, StackedHead, StackedLinear, folded
from ddpmseg.randomness import keyed_generator


def paper_hidden(num_classes: int) -> tuple[int, int]:
    """Hidden widths by number of outputs: 128, 32 under 30 outputs, else 256, 128.

    Source: reference `src/pixel_classifier.py`.
    """
    return (128, 32) if num_classes < 30 else (256, 128)


@torch.no_grad()
def initialise(weights: Sequence[Tensor], seed: int, member: int) -> None:
    """Draw one member's weights, first layer first, from N(0, 0.02) and its own stream of `seed`.

    So a member is the same in any ensemble. Source: reference `src/pixel_classifier.py`.
    """
    generator = keyed_generator(seed, member)
    for weight in weights:
        # What is drawn into a tensor depends on how it lies in memory.
        weight.copy_(torch.empty(weight.shape).normal_(0, 0.02, generator=generator))


class StackedMLP(StackedHead):
    """M classifiers D -> hidden -> K that all see the whole pixel vector."""

    kind = "mlp"
    arguments = ("members", "hidden")

    def __init__(
        self, dim: int, num_classes: int, members: int, hidden: Sequence[int], seed: int = 0
    ) -> None:
        super().__init__(dim, num_classes, members, tuple(hidden))
        widths = [dim, *hidden, num_classes]
        self.linears = nn.ModuleList(
            StackedLinear(members, into, out) for into, out in pairwise(widths)
        )
        for member in range(members):
            initialise([layer.weight[member] for layer in self._layers], seed, member)

    @property
    def _layers(self) -> list[StackedLinear]:
        return cast(list[StackedLinear], list(self.linears))

    @property
    def later(self) -> list[tuple[StackedBatchNorm, StackedLinear]]:
        norms = cast(list[StackedBatchNorm], list(self.norms))
        return list(zip(norms, self._layers[1:], strict=True))

    @property
    def label(self) -> str:
        return "-".join(["mlp", *map(str, self.hidden)]) if self.hidden else "linear"

    def reader(self, layout: FeatureLayout, dtype: torch.dtype) -> "MLPReader":
        return MLPReader(self, layout, dtype)

    def first(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "m h p"]:
        return self._layers[0](vectors.mT)

    def first_layer(self) -> tuple[Float[Tensor, "o d"], Float[Tensor, " o"]]:
        """Weight and bias of all members' first layer as one, on unscaled vectors, member-major."""
        weight = self._layers[0].weight.flatten(0, 1) * self.input_scale
        return weight, self._layers[0].bias.flatten() - weight @ self.input_mean

    def member_views(self, member: int) -> dict[str, Tensor]:
        layers = {k: v for k, v in self.state_dict().items() if not k.startswith("input_")}
        return {key: value[member] for key, value in layers.items()}


class MLPReader(Reader):
    """A trained ensemble on whole images, in the dtype of the maps.

    The first layer is applied before the resizing (see `Projection`), for all members at once;
    from there on one member at a time. Normalisations are folded into the layer after them.
    """

    @torch.no_grad()
    def __init__(self, head: StackedMLP, layout: FeatureLayout, dtype: torch.dtype) -> None:
        self.members, self.num_classes = head.members, head.num_classes
        self._first = Projection(layout, *head.first_layer(), dtype)
        self._later = folded(head.later, dtype)

    @torch.inference_mode()
    def scores(self, maps: NativeMaps) -> Float32[Tensor, "n m k s s"]:
        size, native = maps.layout.image_size, self._first.native(maps)
        shape = (len(maps), self.members, self.num_classes, size, size)
        scores = torch.empty(shape, device=maps.device)
        width = self._first.num_outputs // self.members
        for image, member in product(range(len(maps)), range(self.members)):
            h = self._first.output(native, image, slice(member * width, (member + 1) * width))
            for weight, bias in self._later:
                h = F.linear(h.relu_(), weight[member], bias[member])
            scores[image, member] = h.permute(2, 0, 1)
        return scores
