"""What a forecast costs, and what it says."""

import time
from collections.abc import Collection

import pytest
from torch import Tensor

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.pixels.backbone import PixelsBackbone
from ddpmseg.composition.estimate import LONG, seconds_per_image
from ddpmseg.features.extract import FeatureExtractor


class Slow(PixelsBackbone):
    """Takes so many seconds for each image."""

    seconds = 0.0

    def native_maps(
        self, images: Tensor, timesteps: Tensor, blocks: Collection[int], hook: Hook = "output"
    ) -> dict[int, Tensor]:
        time.sleep(self.seconds * len(images))
        return super().native_maps(images, timesteps, blocks, hook)


@pytest.mark.parametrize(("seconds", "num_images"), [(LONG, 1), (0.001, 2 + 2 * 8)])
def test_a_forecast_costs_one_image_of_work_that_takes_long(
    seconds: float, num_images: int
) -> None:
    backbone = Slow("pixels", 16)
    backbone.seconds = seconds
    extractor = FeatureExtractor(backbone, [0], [0], image_size=16, batch_size=8)
    assert seconds_per_image(extractor) == pytest.approx(seconds, rel=0.5, abs=0.02)
    assert extractor.computed_pairs == num_images
