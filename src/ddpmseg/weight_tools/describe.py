"""Describes the network in a weight file, and writes the backbone YAML that uses it."""

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from ddpmseg.backbones.alae.backbone import ALAE
from ddpmseg.backbones.gan.inversion import GAN_INVERSION
from ddpmseg.backbones.guided_diffusion.describe import Description, describe, network_shapes
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.mae.backbone import MAE
from ddpmseg.backbones.swav.backbone import SWAV
from ddpmseg.backbones.vdvae.backbone import VDVAE, num_blocks
from ddpmseg.backbones.vdvae.layout import read_layout
from ddpmseg.backbones.vdvae.settings import VdvaeConfig
from ddpmseg.command_line import overrides
from ddpmseg.config.choice import check_choice, write_choice
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.io.files import file_sha256
from ddpmseg.weights.encoder_files import KINDS, EncoderFormat, read_pretrained
from ddpmseg.weights.read import read_state_dict, resolve_checkpoint
from ddpmseg.weights.shapes import Shapes, differences, shapes_of

ENCODERS = {
    "swav": SWAV,
    "mae": MAE,
    "alae": ALAE,
    "vdvae": VDVAE,
    "gan_inversion": GAN_INVERSION,
}
"""By the name of their schema."""


@dataclass(frozen=True)
class Known:
    """Flags that a state dict does not determine; None: unknown, or the package's default."""

    image_size: int | None = None
    num_heads: int | None = None
    num_head_channels: int | None = None
    use_new_attention_order: bool = False
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False

    @property
    def missing(self) -> list[str]:
        """The options without which the network cannot be built as it was trained."""
        missing = [] if self.image_size is not None else ["--image-size N"]
        if self.num_heads is None and self.num_head_channels is None:
            missing.append("--num-head-channels N (or --num-heads N)")
        return missing

    def flags(self) -> dict[str, Any]:
        """The known arguments of `Description.flags`, without the image size."""
        return {key: v for key, v in asdict(self).items() if key != "image_size" and v is not None}


def describe_weights(checkpoint: str, known: Known, output: Path | None = None) -> list[str]:
    """Describe the network in a weight file, in lines; with `output`, write its backbone YAML.

    Raises CheckpointError for a file that is neither an unconditional UNet of guided_diffusion nor
    one of `ENCODERS`; ConfigError for flags that such a network cannot have, for an `output` that
    exists already, and if a flag that it needs is unknown.
    """
    path = resolve_checkpoint(checkpoint)
    pretrained = read_pretrained(path)
    for schema, encoder in ENCODERS.items():
        if encoder.marker in pretrained:
            shapes = shapes_of(encoder.part_of(pretrained)[0])
            return _describe_encoder(checkpoint, schema, encoder, shapes, known, output)
    try:
        # A UNet's file must hold nothing else, unlike an encoder's.
        shapes = shapes_of(read_state_dict(path, mapped=True))
        description = describe(shapes)
    except ValueError as error:
        raise CheckpointError(
            f"'{path}' is not a network that can be used as a backbone: {error}. Use an "
            "unconditional UNet of openai/guided-diffusion, trained on RGB images."
        ) from error
    if output is not None:
        check_choice(output, "backbone", "--output")
        if known.missing:
            raise ConfigError(
                f"`--output {output}` needs what no weight file tells: "
                f"{', '.join(known.missing)}. Without --output the command says how to find it out."
            )
    flags = None
    if known.image_size is not None:
        flags = description.flags(known.image_size, **known.flags())
        # Raises ConfigError for flags that the diffusion process rejects.
        assert not differences(shapes, network_shapes(flags))
    lines = [
        f"{path}: UNet of guided_diffusion, {description.num_parameters:,} parameters",
        *_inferred_flags(description, flags),
        *_other_flags(description, known),
    ]
    if output is None or flags is None:
        return lines
    write_backbone(output, checkpoint, file_sha256(path), flags)
    return [*lines, f"wrote {output}: use it with `backbone={output.stem}`"]


def _describe_encoder(
    checkpoint: str,
    schema: str,
    encoder: EncoderFormat,
    shapes: Shapes,
    known: Known,
    output: Path | None,
) -> list[str]:
    """`describe_weights` for the encoder's part of a file."""
    try:
        settings = encoder.settings(shapes)
    except ValueError as error:
        raise CheckpointError(
            f"'{checkpoint}' is {KINDS[encoder.marker][0]}, but none that can be used as a "
            f"backbone: {error}."
        ) from error
    count = sum(prod(shape) for shape in shapes.values())
    lines = [
        f"{checkpoint}: {KINDS[encoder.marker][0]}, {count:,} parameters that are read",
        "in the file:",
        *(f"  {key}: {value}" for key, value in settings.items()),
    ]
    if encoder is MAE:
        channels = known.num_head_channels or 64
        heads = known.num_heads or settings["embed_dim"] // channels
        is_known = known.num_heads or known.num_head_channels
        assumed = "" if is_known else f"  (assumed: {channels} channels a head; else --num-heads)"
        lines += ["not in the file:", f"  num_heads: {heads}{assumed}"]
        settings["num_heads"] = heads
    if encoder is VDVAE:
        lines += ["not in the file, but in the code that trained it:", *_layout_lines(shapes)]
    if output is None:
        chosen = {"backbone": schema, "backbone.checkpoint": checkpoint}
        chosen |= {f"backbone.{key}": value for key, value in settings.items()}
        return [*lines, f"use it with `{overrides(chosen)}`"]
    check_choice(output, "backbone", "--output")
    comments = [
        f"{Path(checkpoint).name}, sha256 {file_sha256(Path(checkpoint).expanduser())}",
        "Settings by `ddpmseg weights describe`.",
    ]
    write_choice(output, comments, f"{schema}_schema", {"checkpoint": checkpoint} | settings)
    return [*lines, f"wrote {output}: use it with `backbone={output.stem}`"]


def _layout_lines(shapes: Shapes) -> list[str]:
    """Settings that a very deep VAE's file does not determine, and whether the defaults may fit."""
    usual, (encoder, decoder) = VdvaeConfig(), num_blocks(shapes)
    layout = read_layout(usual.enc_blocks, usual.dec_blocks)
    if (encoder, decoder) == (len(layout.encoder), len(layout.decoder)):
        advice = f"as many blocks ({encoder} and {decoder}) as the network of FFHQ-256: its are set"
    else:
        advice = f"set them for {encoder} and {decoder} blocks: the network of FFHQ-256 has others"
    return [
        "  enc_blocks, dec_blocks: where the blocks stand",
        "  pixel_mean, pixel_std: how it shifted and scaled values of 0..255",
        f"  ({advice})",
    ]


def write_backbone(output: Path, checkpoint: str, sha256: str, flags: UNetFlags) -> None:
    """Write a file like those of `conf/backbone`; its name is that of the backbone."""
    comments = [
        f"{Path(checkpoint).name}, sha256 {sha256}",
        "Flags by `ddpmseg weights describe`: a network built from them has just the",
        "parameters of the file. No file tells image_size, num_heads, num_head_channels,",
        "use_new_attention_order, diffusion_steps, noise_schedule and rescale_timesteps.",
    ]
    # Dropout is off when features are read.
    unet = {key: value for key, value in asdict(flags).items() if key != "dropout"}
    settings = {"checkpoint": checkpoint, "unet": unet}
    write_choice(output, comments, "guided_diffusion_schema", settings)


def _inferred_flags(description: Description, flags: UNetFlags | None) -> list[str]:
    multipliers = ",".join(f"{mult:g}" for mult in description.channel_mult)
    levels = ", ".join(f"1/{stride}" for stride in description.attention_strides) or "none"
    has_attention = bool(description.attention_strides)
    sides = f' ("{flags.attention_resolutions}")' if flags and has_attention else ""
    return [
        "in the file:",
        f"  num_channels: {description.num_channels}",
        f'  channel_mult: "{multipliers}"',
        f"  num_res_blocks: {description.num_res_blocks}",
        f"  attention_resolutions: {levels} of the image's side{sides}",
        *(
            f"  {flag}: {str(getattr(description, flag)).lower()}"
            for flag in ("use_scale_shift_norm", "resblock_updown", "learn_sigma")
        ),
    ]


def _other_flags(description: Description, known: Known) -> list[str]:
    """The other flags, as known or assumed, or how to find them out."""
    usual = description.usual_image_size
    hint = f"; the multipliers are the usual ones for {usual}" if usual else ""
    channels = ", ".join(map(str, description.attention_channels))
    heads = known.num_heads if known.num_head_channels is None else known.num_head_channels
    name = "num_heads" if known.num_head_channels is None else "num_head_channels"
    lines = ["not in the file, but in the command that trained it or on the model's page:"]
    if known.image_size is not None:
        lines.append(f"  image_size: {known.image_size}")
    else:
        lines.append(
            "  --image-size N: side of the training images, a multiple of "
            f"{description.stride}{hint}"
        )
    if heads is not None:
        lines.append(f"  {name}: {heads}")
    else:
        lines.append(
            "  --num-head-channels N: channels of an attention head (OpenAI's models at 256 and "
            "512 pixels: 64); or\n"
            "  --num-heads N: heads of every attention layer (guided_diffusion's default: 4). It "
            f"must divide {channels}.\n"
            "    A wrong number loads all the same and spoils the features: where no page tells, "
            "sweep with each and keep the best."
        )
    for flag, value in (
        ("use_new_attention_order", known.use_new_attention_order),
        ("noise_schedule", known.noise_schedule),
        ("diffusion_steps", known.diffusion_steps),
        ("rescale_timesteps", known.rescale_timesteps),
    ):
        default = getattr(UNetFlags(), flag)
        option = f"  (assumed; else --{flag.replace('_', '-')})" if value == default else ""
        lines.append(f"  {flag}: {str(value).lower()}{option}")
    return lines
