"""Which network a weight file holds, and the settings of the backbone that reads it."""

from dataclasses import asdict, dataclass
from typing import Any

from ddpmseg.backbones.alae.backbone import ALAE
from ddpmseg.backbones.gan.inversion import GAN_INVERSION
from ddpmseg.backbones.guided_diffusion.describe import (
    NEEDED,
    Description,
    describe,
    network_shapes,
)
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.mae.backbone import MAE
from ddpmseg.backbones.swav.backbone import SWAV
from ddpmseg.backbones.vdvae.backbone import VDVAE
from ddpmseg.errors import CheckpointError
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
"""By the name of their family."""
UNET = "guided_diffusion"
HEADS = "num_heads"
"""The setting of a vision transformer that no file tells."""
CHANNELS_OF_A_HEAD = 64
"""The usual number."""


@dataclass(frozen=True)
class Known:
    """What a state dict does not tell; None: not known, or the package's default."""

    image_size: int | None = None
    num_heads: int | None = None
    num_head_channels: int | None = None
    use_new_attention_order: bool = False
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False

    @property
    def complete(self) -> bool:
        """Whether a UNet can be built as it was trained."""
        return (
            self.image_size is not None and (self.num_heads or self.num_head_channels) is not None
        )

    def given(self) -> dict[str, Any]:
        """As `Description.flags` takes them, without the image size."""
        return {key: v for key, v in asdict(self).items() if key != "image_size" and v is not None}


@dataclass(frozen=True)
class Network:
    """The network in a weight file.

    family: name of the backbones that read it. shapes: of its parameters. encoder: its format, None
    for a UNet. unet: what is known of a UNet, None for an encoder.
    """

    family: str
    shapes: Shapes
    encoder: EncoderFormat | None = None
    unet: Description | None = None

    def encoder_settings(self, known: Known, shown_as: str) -> dict[str, Any]:
        """Settings of the backbone that reads an encoder.

        Raises CheckpointError for a network of this kind that cannot be used.
        """
        assert self.encoder is not None
        try:
            settings = self.encoder.settings(self.shapes)
        except ValueError as error:
            raise CheckpointError(
                f"'{shown_as}' is {KINDS[self.encoder.marker][0]}, but none that can be used as a "
                f"backbone: {error}."
            ) from error
        if self.encoder is MAE:
            channels = known.num_head_channels or CHANNELS_OF_A_HEAD
            settings[HEADS] = known.num_heads or settings["embed_dim"] // channels
        return settings

    def unet_flags(self, known: Known) -> UNetFlags:
        """Flags of a UNet whose image size is known; ConfigError for what it cannot have."""
        assert self.unet is not None
        assert known.image_size is not None
        flags = self.unet.flags(known.image_size, **known.given())
        # Raises for what the diffusion process rejects.
        assert not differences(self.shapes, network_shapes(flags))
        return flags


def recognise(checkpoint: str) -> Network:
    """Raises CheckpointError for a file that is no UNet of guided_diffusion nor of `ENCODERS`."""
    path = resolve_checkpoint(checkpoint)
    pretrained = read_pretrained(path)
    for family, encoder in ENCODERS.items():
        if encoder.marker in pretrained:
            return Network(family, shapes_of(encoder.part_of(pretrained)[0]), encoder)
    try:
        # Of a UNet, other than of an encoder, a file must hold nothing else.
        shapes = shapes_of(read_state_dict(path, mapped=True))
        return Network(UNET, shapes, unet=describe(shapes))
    except ValueError as error:
        raise CheckpointError(
            f"'{path}' is not a network that can be used as a backbone: {error}. {NEEDED}"
        ) from error
