"""Describes the network in a weight file, and writes the backbone YAML that uses it."""

from dataclasses import asdict
from math import prod
from pathlib import Path

from ddpmseg.backbones.guided_diffusion.describe import Description
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.vdvae.backbone import VDVAE, num_blocks
from ddpmseg.backbones.vdvae.layout import read_layout
from ddpmseg.backbones.vdvae.settings import VdvaeConfig
from ddpmseg.command_line import override, overrides
from ddpmseg.config.choice import check_choice, write_choice
from ddpmseg.errors import ConfigError
from ddpmseg.io.files import file_sha256
from ddpmseg.weight_tools.recognise import CHANNELS_OF_A_HEAD, HEADS, Known, Network, recognise
from ddpmseg.weights.encoder_files import KINDS
from ddpmseg.weights.read import resolve_checkpoint
from ddpmseg.weights.shapes import Shapes


def describe_weights(checkpoint: str, known: Known, output: Path | None = None) -> list[str]:
    """Describe the network in a weight file, in lines; with `output`, write its backbone YAML.

    Raises CheckpointError for a file that is no unconditional UNet of guided_diffusion, nor one of
    `recognise.ENCODERS`, ConfigError for what such a network cannot have, for an `output` that is
    there already, or that asks for more than is known.
    """
    network, path = recognise(checkpoint), resolve_checkpoint(checkpoint)
    if network.unet is None:
        return _describe_encoder(checkpoint, network, known, output)
    if output is not None:
        check_choice(output, "backbone", "--output")
        if not known.complete:
            raise ConfigError(
                f"`--output {output}` needs what no weight file tells: "
                f"{', '.join(_missing(known))}. Without --output the command says how to find it "
                "out."
            )
    flags = None if known.image_size is None else network.unet_flags(known)
    lines = [
        f"{path}: UNet of guided_diffusion, {network.unet.num_parameters:,} parameters",
        *_inferred_flags(network.unet, flags),
        *_other_flags(network.unet, known),
    ]
    if output is None or flags is None:
        return lines
    write_backbone(output, checkpoint, file_sha256(path), flags)
    return [*lines, f"wrote {output}: use it with `{override('backbone', output.stem)}`"]


def _missing(known: Known) -> list[str]:
    """The options without which the network cannot be built as it was trained."""
    missing = [] if known.image_size is not None else ["--image-size N"]
    if known.num_heads is None and known.num_head_channels is None:
        missing.append("--num-head-channels N (or --num-heads N)")
    return missing


def _describe_encoder(
    checkpoint: str, network: Network, known: Known, output: Path | None
) -> list[str]:
    """As `describe_weights`, for the encoder's part of a file."""
    encoder, shapes = network.encoder, network.shapes
    assert encoder is not None
    settings = network.encoder_settings(known, checkpoint)
    count = sum(prod(shape) for shape in shapes.values())
    lines = [
        f"{checkpoint}: {KINDS[encoder.marker][0]}, {count:,} parameters that are read",
        "in the file:",
        *(f"  {key}: {value}" for key, value in settings.items() if key != HEADS),
    ]
    if HEADS in settings:
        given = known.num_heads or known.num_head_channels
        assumed = (
            "" if given else f"  (assumed: {CHANNELS_OF_A_HEAD} channels a head; else --num-heads)"
        )
        lines += ["not in the file:", f"  {HEADS}: {settings[HEADS]}{assumed}"]
    if encoder is VDVAE:
        lines += ["not in the file, but in the code that trained it:", *_layout_lines(shapes)]
    if output is None:
        chosen: dict[str, object] = {"backbone": network.family, "backbone.checkpoint": checkpoint}
        chosen |= {f"backbone.{key}": value for key, value in settings.items()}
        return [*lines, f"use it with `{overrides(chosen)}`"]
    check_choice(output, "backbone", "--output")
    comments = [
        f"{Path(checkpoint).name}, sha256 {file_sha256(Path(checkpoint).expanduser())}",
        "Settings by `ddpmseg weights describe`.",
    ]
    write_choice(
        output, comments, f"{network.family}_schema", {"checkpoint": checkpoint} | settings
    )
    return [*lines, f"wrote {output}: use it with `{override('backbone', output.stem)}`"]


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
