"""The settings of the package's own backbones, one class for each family of networks.

They stand here and not beside their networks so that completing a command line on the shell needs
no torch. A backbone that is added holds its settings in its own module: see
`ddpmseg.config.store.backbone_schemas`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import II, MISSING

from ddpmseg.backbones.guided_diffusion.flags import UNetFlags
from ddpmseg.backbones.settings import BackboneConfig, WeightsConfig


@dataclass
class GuidedDiffusionConfig(WeightsConfig):
    """Any UNet of guided_diffusion."""

    _target_: str = "ddpmseg.backbones.guided_diffusion.GuidedDiffusionBackbone"
    checkpoint: str = MISSING
    """A .pt or .safetensors file with a bare state dict, 'bundled:NAME', or 'random'."""
    compile: bool = False
    """Run the network through torch.compile: faster passes for a minute or more of compiling, once
    per network and machine. Pays from about a thousand passes on a CPU."""
    unet: UNetFlags = field(default_factory=UNetFlags)


@dataclass
class DiffusersConfig(BackboneConfig):
    """Any unconditional UNet2DModel of the diffusers library."""

    _target_: str = "ddpmseg.backbones.diffusers.DiffusersBackbone"
    checkpoint: str = MISSING
    """A folder as `save_pretrained` writes it, of the network or of a DDPM pipeline, or a model of
    the Hugging Face hub, OWNER/NAME."""
    noise_schedule: str | None = None
    """'linear', 'scaled_linear' or 'squaredcos_cap_v2', each of 1000 steps; null: that of the
    checkpoint's scheduler_config.json."""
    untrained: bool = False
    """Leave out the weights: a control. Of the checkpoint only config.json is read."""
    seed: int = 0
    """Draws the weights of an untrained network."""
    precision: str = "auto"
    compile: bool = False
    """These two as for guided_diffusion."""
    download: bool = False
    """Fetch a model of the hub that the hub's cache lacks."""


@dataclass
class SwavConfig(WeightsConfig):
    """A ResNet of bottlenecks; its file is one of SwAV, or a bare state dict."""

    _target_: str = "ddpmseg.backbones.swav.SwavBackbone"
    channels: int = 64
    """Of the stem, to which all others are proportional: 64 for RN50, 128 for RN50w2."""
    stages: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    """Bottlenecks of each stage."""


@dataclass
class MaeConfig(WeightsConfig):
    """The vision transformer of a masked autoencoder; its file is one of MAE, or a bare state dict.
    Needs the extra 'networks'."""

    _target_: str = "ddpmseg.backbones.mae.MaeBackbone"
    image_size: int = 256
    """Side of the images it was trained on. `dataset.image_size` may be another: positions are
    stretched over it."""
    patch_size: int = 8
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    """Of every attention layer; leaves no trace in the file."""
    mlp_ratio: float = 4.0


@dataclass
class VdvaeConfig(WeightsConfig):
    """A very deep VAE; its file is one of the original code. The defaults are its FFHQ-256 network,
    and the settings of other ones stand in that code's `hps.py` and `data.py`."""

    _target_: str = "ddpmseg.backbones.vdvae.VdvaeBackbone"
    enc_blocks: list[str] = field(
        default_factory=lambda: [
            *("256x3", "256d2", "128x8", "128d2", "64x12", "64d2", "32x17", "32d2"),
            *("16x7", "16d2", "8x5", "8d2", "4x5", "4d4", "1x4"),
        ]
    )
    """Where the encoder's blocks stand: 256x3 are three on maps of 256 x 256, 256d2 is one that
    then halves them. The first side is that of the images. Leaves no trace in the file."""
    dec_blocks: list[str] = field(
        default_factory=lambda: [
            *("1x2", "4m1", "4x3", "8m4", "8x4", "16m8", "16x9", "32m16", "32x21"),
            *("64m32", "64x13", "128m64", "128x7", "256m128"),
        ]
    )
    """The decoder's: 4m1 is one on maps of 4 x 4 that adds those of 1 x 1."""
    width: int = 512
    """Channels of every map."""
    bottleneck_multiple: float = 0.25
    """Their share between the convolutions of a block."""
    zdim: int = 16
    """Channels of every latent."""
    no_bias_above: int = 64
    """Side of the largest maps of the decoder whose start is learned."""
    pixel_mean: float = 112.8666757481
    pixel_std: float = 69.84780273
    """By these its training shifted and scaled values of 0..255. They leave no trace either."""
    latents: str = "mean"
    """'mean' of the posterior of each, or 'sampled' from it with noise by `seed`."""


@dataclass
class AlaeConfig(WeightsConfig):
    """The encoder of a StyleALAE; its file is one of ALAE, or a bare state dict."""

    _target_: str = "ddpmseg.backbones.alae.AlaeBackbone"
    levels: int = 7
    """Each halves the image, down to 2x2: 7 for networks of 256 pixels, 9 for those of 1024."""
    channels: int = 32
    """Of the largest level; they double from level to level ..."""
    max_channels: int = 512
    """... up to this."""
    latent_size: int = 512
    """Of the latent code, which is not computed: it shows in the file only."""
    image_size: int = II("dataset.image_size")
    """Side of the images that are given, in pixels."""
    input_size: int | None = None
    """Side, in pixels, that they are resized to, that of one of the levels, where they enter; null:
    `image_size`, rounded up to the next level's."""


@dataclass
class GanEncoderConfig(WeightsConfig):
    """The encoder of e4e, which inverts a GAN; its file is one of e4e, or a bare state dict."""

    _target_: str = "ddpmseg.backbones.gan.GanEncoderBackbone"
    channels: int = 512
    """Of its deepest maps, to which all others are proportional."""
    input_size: int = 256
    """Side, in pixels, that images are resized to for it, a multiple of 16; those of its training
    had 256."""


@dataclass
class GanInversionConfig(WeightsConfig):
    """The generator of StyleGAN2 on the codes that e4e finds; its file is one of e4e."""

    _target_: str = "ddpmseg.backbones.gan.GanInversionBackbone"
    size: int = 256
    """Side, in pixels, of the images that the generator draws."""
    channels: int = 512
    """Of its deepest maps, to which all others are proportional."""
    input_size: int = 256
    """Side, in pixels, that images are resized to for the encoder, a multiple of 16 up to 256."""


@dataclass
class TimmConfig(WeightsConfig):
    """Any network of timm; `name` is the library's, as in vit_small_patch14_dinov2.lvd142m."""

    _target_: str = "ddpmseg.backbones.timm.TimmBackbone"
    checkpoint: str = "hub"
    """A .safetensors or .pth file, 'hub' (the library's published file), or 'random'."""
    image_size: int = 64
    """Side of the images that are given, in pixels."""
    input_size: int | None = None
    """Side, in pixels, that they are resized to for the network, a multiple of its patch or largest
    stride; null: `image_size` rounded up to the next one. Twice the side has four times the detail
    in its maps, at four times the cost."""
    layers: Any = None
    """Which layers are meant where no blocks are chosen: a list, 'lastN', or null for all."""
    norm: bool = True
    """Pass the maps of a transformer through its final normalisation, as DINO's evaluations do."""


@dataclass
class PixelsConfig(BackboneConfig):
    """The image itself as the only feature: a control."""

    _target_: str = "ddpmseg.backbones.pixels.PixelsBackbone"
    image_size: int = 64


BACKBONES: dict[str, type[BackboneConfig]] = {
    "guided_diffusion": GuidedDiffusionConfig,
    "diffusers": DiffusersConfig,
    "swav": SwavConfig,
    "mae": MaeConfig,
    "vdvae": VdvaeConfig,
    "alae": AlaeConfig,
    "gan_encoder": GanEncoderConfig,
    "gan_inversion": GanInversionConfig,
    "timm": TimmConfig,
    "pixels": PixelsConfig,
}
"""By the name of the schema in a defaults list, less its `_schema`."""
