"""A trained head on whole images: maps in, masks and uncertainty out."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.base import Reader
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


@torch.inference_mode()
def segment(reader: Reader, maps: NativeMaps, vote: Vote = "hard") -> Segmentation:
    """Predict the mask of every image, one at a time."""
    masks, disagreements = [], []
    for image in range(len(maps)):
        scores = reader.scores(maps[image : image + 1])[0]
        masks.append(hard_vote(scores) if vote == "hard" else soft_vote(scores))
        disagreements.append(member_disagreement(scores))
    disagreement = torch.stack(disagreements)
    return Segmentation(torch.stack(masks), disagreement, image_uncertainty(disagreement))
