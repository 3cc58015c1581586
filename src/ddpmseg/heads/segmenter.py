"""A fitted head together with the network whose features it reads: images in, masks out."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.heads.base import Head
from ddpmseg.heads.segment import Segmentation, Vote, segment
from ddpmseg.heads.vote import mean_probability


class ImageSegmenter(Protocol):
    """Whatever makes masks of images.

    images_per_pass: how many images it takes at a time.
    """

    images_per_pass: int

    def segment(self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]) -> Segmentation:
        """Masks of images in 0..255; the noise of the features may depend on their `names`."""
        ...

    def probabilities(
        self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]
    ) -> Float[Tensor, "n k s s"]:
        """Probability of every class at every pixel, float32; of an ensemble its members' mean."""
        ...


class HeadSegmenter:
    """A fitted head on the features of a frozen network, on the device of the network."""

    def __init__(self, head: Head, extractor: FeatureExtractor, vote: Vote) -> None:
        self.head, self.extractor = head.to(extractor.backbone.device), extractor
        self.vote: Vote = vote
        self.images_per_pass = extractor.images_per_pass
        self._reader = self.head.reader(extractor.layout, extractor.backbone.dtype)

    def segment(self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]) -> Segmentation:
        return segment(self._reader, self.extractor(images, names), self.vote)

    @torch.inference_mode()
    def probabilities(
        self, images: UInt8[Tensor, "n 3 s s"], names: Sequence[str]
    ) -> Float[Tensor, "n k s s"]:
        maps = self.extractor(images, names)
        scores = (self._reader.scores(maps[image : image + 1])[0] for image in range(len(maps)))
        return torch.stack([mean_probability(members) for members in scores])
