"""Infers the flags of a guided_diffusion UNet from the names and shapes of its parameters.

The shapes determine channels, levels, attention and the kind of blocks. They do not determine the
side of the images, the attention heads and the diffusion process: the user must know these.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.errors import ConfigError
from ddpmseg.weights.shapes import Shapes, differences

DEFAULT_MULTIPLIERS = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
"""The package's default `channel_mult` for each image size. The last one works only as a default:
the package parses whole numbers."""
NEEDED = "Needed is an unconditional UNet of openai/guided-diffusion, trained on RGB images."
_FOREIGN = (
    ("label_emb.", "is class-conditional: a pass through it needs the class of every image"),
    ("model.diffusion_model.", "is a latent diffusion model: it sees codes, not images"),
    ("down_blocks.", "is a UNet of the diffusers library, whose layers have other names"),
    ("cond_stage_model.", "is conditioned on text"),
)


class OtherKindError(ValueError):
    """A network that is whole, and of a kind that cannot be a backbone."""


@dataclass(frozen=True)
class Description:
    """The properties of a network that the shapes of its parameters determine."""

    num_channels: int
    num_res_blocks: int
    channel_mult: tuple[float, ...]
    """Channels of every level divided by `num_channels`, from full resolution to the deepest."""
    attention_strides: tuple[int, ...]
    """Stride of every level with attention, ascending. The middle block always has attention."""
    attention_channels: tuple[int, ...]
    """Channels of all attention layers, ascending; the heads of a layer share them equally."""
    use_scale_shift_norm: bool
    resblock_updown: bool
    learn_sigma: bool
    num_parameters: int

    @property
    def stride(self) -> int:
        """Divisor of every image's side."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def usual_image_size(self) -> int | None:
        """The image size for which these multipliers are the package's defaults, if any."""
        sizes = {mult: size for size, mult in DEFAULT_MULTIPLIERS.items()}
        return sizes.get(self.channel_mult)

    def flags(self, image_size: int, **known: Any) -> UNetFlags:
        """All flags: the inferred ones and the `known` ones.

        Args:
            image_size: side in pixels of the training images.
            known: `num_heads` or `num_head_channels`, `use_new_attention_order`, `noise_schedule`,
                `diffusion_steps`, `rescale_timesteps`; missing ones have the package's defaults.

        Raises ConfigError for an image size or heads that this network cannot have.
        """
        if image_size < self.stride or image_size % self.stride:
            raise ConfigError(
                f"image size {image_size}: a network of {len(self.channel_mult)} levels takes "
                f"images whose side is a multiple of {self.stride}."
            )
        self._check_heads("num_heads", known.get("num_heads", 1))
        if known.get("num_head_channels", -1) != -1:
            self._check_heads("num_head_channels", known["num_head_channels"])
        # The package cannot express "at no level", but no map is larger than the image.
        sides = [image_size // stride for stride in self.attention_strides] or [2 * image_size]
        return UNetFlags(
            image_size=image_size,
            num_channels=self.num_channels,
            num_res_blocks=self.num_res_blocks,
            channel_mult=self._channel_mult(image_size),
            attention_resolutions=",".join(map(str, sides)),
            use_scale_shift_norm=self.use_scale_shift_norm,
            resblock_updown=self.resblock_updown,
            learn_sigma=self.learn_sigma,
            **known,
        )

    def _channel_mult(self, image_size: int) -> str:
        if all(mult == int(mult) for mult in self.channel_mult):
            return ",".join(str(int(mult)) for mult in self.channel_mult)
        if DEFAULT_MULTIPLIERS.get(image_size) == self.channel_mult:
            return ""
        shown = ", ".join(f"{mult:g}" for mult in self.channel_mult)
        raise ConfigError(
            f"guided_diffusion builds a network whose levels have {shown} times "
            f"{self.num_channels} channels only for images of 512 pixels; the given image size is "
            f"{image_size}."
        )

    def _check_heads(self, flag: str, number: int) -> None:
        for channels in self.attention_channels:
            if number < 1 or channels % number:
                layers = ", ".join(map(str, self.attention_channels))
                raise ConfigError(
                    f"{flag} {number} does not divide {channels}: the attention layers of this "
                    f"network have {layers} channels."
                )


def describe(shapes: Shapes) -> Description:
    """Infer the flags, and verify that a network built from them has exactly these parameters.

    Allocates no parameters. Raises ValueError with a clause that says why this is no unconditional
    UNet of guided_diffusion on RGB images, OtherKindError where it is a whole network of another
    kind.
    Source: openai/guided-diffusion `UNetModel.__init__`.
    """
    description = _infer(_Parameters(shapes))
    image_size = next(
        (size for size, mult in DEFAULT_MULTIPLIERS.items() if mult == description.channel_mult),
        8 * description.stride,
    )
    try:
        built = network_shapes(description.flags(image_size, num_heads=1))
    except ConfigError as error:
        raise ValueError(f"no flags build such a network ({error})") from error
    if problems := differences(shapes, built):
        raise ValueError(f"no flags build just these parameters: {problems[0]}")
    return description


def network_shapes(flags: UNetFlags) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters of the network built from `flags`."""
    with torch.device("meta"):
        unet, _ = build_unet(flags)
    return {key: tuple(value.shape) for key, value in unet.state_dict().items()}


class _Parameters:
    """Shapes by name; a missing parameter raises ValueError."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes

    def axis(self, key: str, axis: int = 0) -> int:
        """Length of one axis of a parameter."""
        shape = self.shapes.get(key)
        if shape is None or len(shape) <= axis or shape[axis] < 1:
            problem = "no" if shape is None else f"{list(shape)} as"
            raise ValueError(f"it has {problem} parameter '{key}'")
        return shape[axis]

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def count(self, part: str) -> int:
        """Number of blocks in 'input_blocks' or 'output_blocks'."""
        indices = {key.split(".")[1] for key in self.shapes if key.startswith(f"{part}.")}
        return len(indices)


def _infer(parameters: _Parameters) -> Description:
    for prefix, clause in _FOREIGN:
        if any(key.startswith(prefix) for key in parameters.shapes):
            raise OtherKindError(f"it {clause}")
    num_channels = parameters.axis("time_embed.0.weight", 1)
    num_blocks = parameters.count("output_blocks")
    if not num_blocks:
        raise OtherKindError("it has no decoder (`output_blocks`), like a classifier")
    if (in_channels := parameters.axis("input_blocks.0.0.weight", 1)) != 3:
        raise OtherKindError(
            f"its input has {in_channels} channels instead of an image's 3, like an upsampler's"
        )
    if (out_channels := parameters.axis("out.2.weight")) not in (3, 6):
        raise OtherKindError(f"its output has {out_channels} channels; a UNet of images has 3 or 6")

    # The last block of every level but the first ends with an upsampling layer.
    ups = [block for block in range(num_blocks) if _upsampling(parameters, block) is not None]
    per_level = ups[0] + 1 if ups else num_blocks
    firsts = range(0, num_blocks, per_level)[::-1]  # of every decoder level, full size first
    channels = [_channels(parameters, block) for block in firsts]
    attending = [level for level, block in enumerate(firsts) if _has_attention(parameters, block)]
    attention_channels = {channels[level] for level in attending} | {_middle_channels(parameters)}
    embedded = parameters.axis("output_blocks.0.0.emb_layers.1.weight")
    return Description(
        num_channels=num_channels,
        num_res_blocks=per_level - 1,
        channel_mult=tuple(count / num_channels for count in channels),
        attention_strides=tuple(2**level for level in attending),
        attention_channels=tuple(sorted(attention_channels)),
        use_scale_shift_norm=embedded == 2 * channels[-1],
        resblock_updown=bool(ups) and _upsampling(parameters, ups[0]) == "residual",
        learn_sigma=out_channels == 6,
        num_parameters=sum(prod(shape) for shape in parameters.shapes.values()),
    )


def _channels(parameters: _Parameters, block: int) -> int:
    return parameters.axis(f"output_blocks.{block}.0.out_layers.3.weight")


def _middle_channels(parameters: _Parameters) -> int:
    return parameters.axis("middle_block.1.norm.weight")


def _has_attention(parameters: _Parameters, block: int) -> bool:
    return f"output_blocks.{block}.1.qkv.weight" in parameters


def _upsampling(parameters: _Parameters, block: int) -> str | None:
    """How a decoder block upsamples at its end: 'residual', 'convolution' or None."""
    for layer in (1, 2):
        if f"output_blocks.{block}.{layer}.in_layers.2.weight" in parameters:
            return "residual"
        if f"output_blocks.{block}.{layer}.conv.weight" in parameters:
            return "convolution"
    return None
