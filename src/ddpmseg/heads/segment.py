"""A trained head on whole images: maps in, masks and uncertainty out."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.project import Projection
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.stacked import folded
from ddpmseg.heads.vote import hard_vote, image_uncertainty, member_disagreement, soft_vote

Vote = Literal["hard", "soft"]


@dataclass(frozen=True)
class Segmentation:
    """Prediction for n images.

    masks: labels 0..K-1, int64. disagreement: Jensen-Shannon divergence of the members per pixel,
    in nats; of a network without members the entropy of its softmax. uncertainty: of an image, see
    `image_uncertainty`.
    """

    masks: Int[Tensor, "n s s"]
    disagreement: Float[Tensor, "n s s"]
    uncertainty: Float[Tensor, " n"]


class HeadReader:
    """A trained head on whole images, in the dtype of the maps.

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
        """Class scores (logits) of every member at every pixel."""
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


@torch.inference_mode()
def segment(reader: HeadReader, maps: NativeMaps, vote: Vote = "hard") -> Segmentation:
    """Predict the mask of every image, one at a time."""
    masks, disagreements = [], []
    for image in range(len(maps)):
        scores = reader.scores(maps[image : image + 1])[0]
        masks.append(hard_vote(scores) if vote == "hard" else soft_vote(scores))
        disagreements.append(member_disagreement(scores))
    disagreement = torch.stack(disagreements)
    return Segmentation(torch.stack(masks), disagreement, image_uncertainty(disagreement))
