"""The layers of a `UNet2DModel` as faster functions with the same results, for inference only.

Maps stay in channels_last and in their dtype, attention needs no copy for the normalisation, and
residual blocks overwrite temporary maps.
Source: diffusers `ResnetBlock2D.forward`, `AttnProcessor2_0.__call__`.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.backbones.diffusers.unet2d import Stage

Map = Float[Tensor, "n _ _ _"]
Embedding = Float[Tensor, "n e"]


def run_stage(stage: Stage, x: Map, embedding: Embedding) -> Map:
    """Residual block and attention, without the change of resolution."""
    x = residual(stage.residual, x, embedding)
    return x if stage.attention is None else attend(stage.attention, x)


def resample(layer: Any, x: Map, embedding: Embedding) -> Map:
    """Halve or double the resolution by a convolution or a residual block."""
    return residual(layer, x, embedding) if hasattr(layer, "time_emb_proj") else layer(x)


def run_middle(middle: Any, x: Map, embedding: Embedding) -> Map:
    """The layers between encoder and decoder, if any."""
    if middle is None:
        return x
    x = residual(middle.resnets[0], x, embedding)
    for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True):
        if attention is not None:
            x = attend(attention, x)
        x = residual(block, x, embedding)
    return x


def residual(block: Any, x: Map, embedding: Embedding) -> Map:
    """A `ResnetBlock2D`, which may resample, conditioned by scale and shift or only shift."""
    h = _activate(block.nonlinearity, block.norm1(x))
    change = block.upsample or block.downsample
    if change is not None:
        x, h = change(x), change(h)
    h = block.conv1(h)
    condition = block.time_emb_proj(block.nonlinearity(embedding)).to(h.dtype)[..., None, None]
    if block.time_embedding_norm == "scale_shift":
        scale, shift = condition.chunk(2, dim=1)
        h = block.norm2(h).mul_(1 + scale).add_(shift)
    else:
        h = block.norm2(h.add_(condition))
    h = block.conv2(_activate(block.nonlinearity, h))
    h.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))
    return h if block.output_scale_factor == 1 else h.div_(block.output_scale_factor)


def attend(layer: Any, x: Map) -> Map:
    """An `Attention` of all pixels to each other, with its residual connection."""
    n, c, height, width = x.shape
    normed = x if layer.group_norm is None else layer.group_norm(x)
    rows = normed.permute(0, 2, 3, 1).reshape(n, height * width, c)
    q, k, v = (
        projection(rows).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        for projection in (layer.to_q, layer.to_k, layer.to_v)
    )
    read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    out = layer.to_out[0](read).view(n, height, width, c).permute(0, 3, 1, 2)
    return (x + out) / layer.rescale_output_factor


def _activate(function: nn.Module, x: Map) -> Map:
    """Apply the activation; SiLU, the usual one, overwrites `x`."""
    return F.silu(x, inplace=True) if isinstance(function, nn.SiLU) else function(x)
