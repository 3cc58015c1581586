"""Vision transformers of masked autoencoders, pretrained on the paper's image domains."""

from collections.abc import Iterator
from functools import lru_cache, partial
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.errors import CheckpointError, ConfigError, MissingLibraryError
from ddpmseg.weights.encoder_files import EncoderFormat
from ddpmseg.weights.shapes import Shapes

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def mae_settings(shapes: Shapes) -> dict[str, Any]:
    """Infer all settings but `num_heads`. Raises ValueError for a missing parameter."""
    for key, axes in (("pos_embed", 3), ("patch_embed.proj.weight", 4)):
        if len(shapes.get(key, ())) != axes:
            raise ValueError(f"there is no '{key}' of {axes} axes")
    if "blocks.0.mlp.fc1.weight" not in shapes:
        raise ValueError("there is no 'blocks.0.mlp.fc1.weight'")
    embed_dim, _, patch_size, _ = shapes["patch_embed.proj.weight"]
    return {
        "image_size": isqrt(shapes["pos_embed"][1] - 1) * patch_size,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / embed_dim,
    }


MAE = EncoderFormat(
    marker="blocks.0.attn.qkv.weight",
    dropped=("mask_token", "decoder_"),
    settings=mae_settings,
)


class MaeBackbone(EncoderBackbone):
    """The encoder of a masked autoencoder with pretrained weights, or random ones as a control.

    Blocks are the transformer's, in the order of the forward pass, 0..23 for ViT-L. Their maps are
    the residual stream before the final norm, without the class token. The encoder sees all patches
    in their natural order: the original shuffles them and back, which changes nothing. The paper
    reads the outputs of blocks 12 to 23, 12288 features per pixel.

    Args:
        name: shown in tables and messages.
        image_size: side of the training images. Other sizes work: the fixed positions are stretched
            over their grid.
        patch_size, embed_dim, depth, num_heads, mlp_ratio: sizes of the transformer.
        checkpoint: a file of MAE (with `model`), a bare state dict as .pt, .pth or .safetensors, or
            'random'. The decoder is ignored.
        precision: precision of the network, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for settings that build no network or without timm, CheckpointError for a
    file that does not fit the network or has another digest.
    Source: He et al. 2021 (arXiv 2111.06377); Baranchuk et al. 2022, `src/feature_extractors.py` of
    its code.
    """

    family = "mae"

    def __init__(
        self,
        name: str,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        checkpoint: str,
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        super().__init__(name, image_size, precision, seed)
        self.settings = {
            "image_size": image_size,
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
        }
        _check(self.settings)
        self.stride, self.own_side = patch_size, image_size // patch_size
        build = partial(build_transformer, **self.settings)
        vit = self.with_weights(build, checkpoint, MAE, sha256)
        assert vit.pos_embed is not None
        self._set_positions(vit.pos_embed, checkpoint)
        self.network = vit.to(self.dtype)
        self.blocks = tuple(
            BlockSpec(index, embed_dim, patch_size, embed_dim, patch_size, "attention+mlp")
            for index in range(depth)
        )
        self.freeze()

    def _set_positions(self, embedding: nn.Parameter, checkpoint: str) -> None:
        """Set the fixed positions of an untrained network; check those of a file."""
        side = self.own_side
        positions = sincos_positions(self.settings["embed_dim"], side, side, side)
        if not self.checkpoint_sha256:
            embedding.data.copy_(positions)
        elif (embedding.data - positions).abs().max() > 0.01:  # a file in 16 bits has rounded ones
            raise CheckpointError(
                f"checkpoint '{checkpoint}' has other position embeddings (`pos_embed`) than the "
                "fixed sine and cosine ones of a masked autoencoder. Use a file of such a model."
            )

    def iterate_maps(self, images: Tensor) -> Iterator[Tensor]:
        vit: Any = self.network
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        positions = vit.pos_embed
        if grid != (self.own_side, self.own_side):
            positions = sincos_positions(vit.embed_dim, *grid, self.own_side).to(positions)
        patches = vit.patch_embed.proj(images).flatten(2).transpose(1, 2) + positions[:, 1:]
        first = (vit.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        tokens = torch.cat([first, patches], dim=1)
        yield _map(tokens, grid)
        for block in vit.blocks:
            tokens = block(tokens)
            yield _map(tokens, grid)


def _map(tokens: Float[Tensor, "n t c"], grid: tuple[int, int]) -> Float[Tensor, "n c h w"]:
    """The patches' tokens on their grid, without the class token, which comes first."""
    return tokens[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)


def build_transformer(
    image_size: int, patch_size: int, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float
) -> "VisionTransformer":
    """timm's transformer, which has MAE's parameter names. Raises ConfigError without timm."""
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise MissingLibraryError("`backbone=mae`", "timm", "networks") from error
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


@lru_cache(maxsize=4)
def sincos_positions(dim: int, height: int, width: int, own_side: int) -> Float[Tensor, "1 p c"]:
    """Fixed embeddings of the class token (zeros) and of a grid's positions, row by row. float32.

    The first half of the `dim` features holds sines, then cosines, of the column at `dim` / 4
    frequencies, the second half those of the row. Positions are in patches of the training grid,
    `own_side` x `own_side`; another grid is stretched over it, so that a position in the picture
    keeps its embedding.
    Source: He et al. 2021; facebookresearch/mae, `util/pos_embed.py`.
    """
    # The result is cached, so it must not be on the meta device that a caller may have set.
    exact = {"dtype": torch.float64, "device": "cpu"}
    frequencies = 10000 ** -(torch.arange(dim // 4, **exact) / (dim // 4))

    def along(count: int) -> Tensor:
        steps = torch.arange(count, **exact)
        angles = ((steps + 0.5) * (own_side / count) - 0.5)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    columns = along(width)[None].expand(height, -1, -1)
    rows = along(height)[:, None].expand(-1, width, -1)
    positions = torch.cat([columns, rows], dim=2).flatten(0, 1)
    return torch.cat([torch.zeros(1, dim, **exact), positions])[None].float()


def _check(settings: dict[str, Any]) -> None:
    """Raise ConfigError for numbers that build no transformer."""
    for key, value in settings.items():
        if value <= 0:
            raise ConfigError(f"`backbone.{key}={value}`: must be above 0.")
    for key, divisor, reason in (
        ("image_size", settings["patch_size"], "by `backbone.patch_size`"),
        ("embed_dim", settings["num_heads"], "by `backbone.num_heads`"),
        ("embed_dim", 4, "by 4, for the sines and cosines of rows and columns"),
    ):
        if settings[key] % divisor:
            raise ConfigError(
                f"`backbone.{key}={settings[key]}`: must be divisible {reason} ({divisor})."
            )
