"""The settings of a very deep VAE."""

from dataclasses import dataclass, field

from ddpmseg.backbones.settings import WeightsConfig


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
