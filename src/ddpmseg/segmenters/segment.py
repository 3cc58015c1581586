"""A trained segmentation network that makes masks as a head does."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ddpmseg.heads.segment import Segmentation
from ddpmseg.segmenters.deeplab import DeepLab

IMAGES_PER_PASS = 8


class NetworkSegmenter:
    """A trained network on a device, as a `ddpmseg.heads.segmenter.ImageSegmenter`."""

    images_per_pass = IMAGES_PER_PASS

    def __init__(self, network: DeepLab, device: torch.device) -> None:
        self.network, self.device = network.to(device).eval(), device

    def segment(self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]) -> Segmentation:
        return self.network.segment(images.to(self.device))

    @torch.inference_mode()
    def probabilities(
        self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]
    ) -> Float[Tensor, "n k s s"]:
        return self.network(images.to(self.device)).softmax(dim=1)
