"""The settings of a very deep VAE."""

from dataclasses import dataclass, field

from ddpmseg.backbones.settings import WeightsConfig


@dataclass
class VdvaeConfig(WeightsConfig):
    """A very deep VAE, from a file of the original code. The defaults are those of its network of
    FFHQ-256; its `hps.py` and `data.py` have the settings of others."""

    _target_: str = "ddpmseg.backbones.vdvae.VdvaeBackbone"
    enc_blocks: list[str] = field(
        default_factory=lambda: [
            *("256x3", "256d2", "128x8", "128d2", "64x12", "64d2", "32x17", "32d2"),
            *("16x7", "16d2", "8x5", "8d2", "4x5", "4d4", "1x4"),
        ]
    )
    """The encoder's blocks: 256x3 are three on maps of 256 x 256, 256d2 is one that then halves
    them. The first side is that of the images. The file does not determine them."""
    dec_blocks: list[str] = field(
        default_factory=lambda: [
            *("1x2", "4m1", "4x3", "8m4", "8x4", "16m8", "16x9", "32m16", "32x21"),
            *("64m32", "64x13", "128m64", "128x7", "256m128"),
        ]
    )
    """The decoder's blocks: 4m1 is one on maps of 4 x 4 that adds those of 1 x 1."""
    width: int = 512
    """Channels of every map."""
    bottleneck_multiple: float = 0.25
    """Their fraction between the convolutions of a block."""
    zdim: int = 16
    """Channels of every latent."""
    no_bias_above: int = 64
    """Side of the largest maps of the decoder whose start is learned."""
    pixel_mean: float = 112.8666757481
    pixel_std: float = 69.84780273
    """Shift and scale of pixel values 0..255 in training, which the file does not determine."""
    latents: str = "mean"
    """'mean' of every latent's posterior, or 'sampled' from it with noise by `seed`."""
