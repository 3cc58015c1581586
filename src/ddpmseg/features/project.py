"""A linear layer on the pixel vectors of whole images, without building the vectors.

A linear layer commutes with bilinear resizing, so it is applied to the native maps, and its few
outputs are resized and summed. Equal to resize, concatenate, multiply, up to rounding.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ddpmseg.features.maps import NativeMaps


def project(
    maps: NativeMaps, weight: Float[Tensor, "o d"], bias: Float[Tensor, " o"]
) -> Float[Tensor, "n o s s"]:
    """weight @ vector + bias at every pixel, in the maps' dtype, channels_last in memory."""
    total: Tensor | None = None
    size = maps.layout.image_size
    for group_size, group in maps.groups.items():
        columns = maps.layout.columns(group_size).to(weight.device)
        part = F.linear(group, weight[:, columns].to(group.dtype)).permute(0, 3, 1, 2)
        if group_size != size:
            part = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.add_(bias.to(total.dtype)[:, None, None])
