"""Weights of bilinear resizing, the same where pixels are drawn and where images are resized.

Equals `torch.nn.functional.interpolate` with align_corners=False and clamped edges. In 16 bits the
shares along an axis are rounded to multiples of a step, so that they and what is left of one have
no further rounding: all weights of a pixel then sum to one exactly. The usual sizes, powers of two,
need no rounding.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

STEPS = {torch.bfloat16: 2**8, torch.float16: 2**11}
"""Multiples of one over this, from 0 to 1, are numbers of the dtype."""


def pixel_weights(
    map_size: int, image_size: int, dtype: torch.dtype
) -> tuple[Int[Tensor, "p k"], Float[Tensor, "p k"]]:
    """The cells of a map_size x map_size grid around each pixel of an image, and their weights.

    Pixels are in the order row * image_size + column, the index of a cell is row * map_size +
    column. There are four cells; in 16 bits each is named twice where a weight, the product of two
    shares, is the sum of two numbers of `dtype`.
    """
    low, high, share = _along(map_size, image_size, dtype)
    ends = torch.stack([low, high], dim=1)
    shares = torch.stack([1 - share, share], dim=1)
    cells = ends[:, None, :, None] * map_size + ends[None, :, None, :]
    exact = (shares[:, None, :, None] * shares[None, :, None, :]).reshape(-1, 4)
    cells, weights = cells.reshape(-1, 4), exact.to(dtype)
    rest = (exact - weights.float()).to(dtype)
    if rest.any():
        return torch.cat([cells, cells], dim=1), torch.cat([weights, rest], dim=1)
    return cells, weights


def axis_matrix(map_size: int, image_size: int, dtype: torch.dtype) -> Float[Tensor, "s r"]:
    """The matrix that resizes a vector of `map_size` numbers to `image_size`."""
    low, high, share = _along(map_size, image_size, dtype)
    matrix = torch.zeros(image_size, map_size)
    matrix.scatter_add_(1, low[:, None], (1 - share)[:, None])
    matrix.scatter_add_(1, high[:, None], share[:, None])
    return matrix.to(dtype)


def _along(
    map_size: int, image_size: int, dtype: torch.dtype
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"], Float[Tensor, " s"]]:
    """The two cells around each position of an axis, and the share of the second, in fp32."""
    position = (torch.arange(image_size) + 0.5) * (map_size / image_size) - 0.5
    position = position.clamp(0, map_size - 1)
    low = position.floor().long()
    share = position - low
    if steps := STEPS.get(dtype):
        share = (share * steps).round() / steps
    return low, (low + 1).clamp(max=map_size - 1), share
