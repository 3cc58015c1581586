"""A control whose only feature is the image itself."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.backbones.base import Backbone, BlockSpec, Hook


class PixelsBackbone(Backbone):
    """Block 0 is the clean image, RGB in [-1, 1]; there are no timesteps and no noise."""

    block_kind, block_order = "layer", "in forward order"

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        self.name, self.image_size = name, image_size
        self.blocks = (BlockSpec(0, 3, 1, 3, 1, "image"),)
        self.dtype = torch.float32
        self.num_timesteps = None
        self.freeze()

    def native_maps(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Float[Tensor, "n _ _ _"]]:
        return {0: images.detach()} if blocks else {}
