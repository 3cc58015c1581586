"""The encoder that inverts a GAN, read out itself: the paper's baseline "GAN Encoder"."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.backbones.gan.e4e import MARKER, PyramidEncoder, check_settings, encoder_channels
from ddpmseg.weights.encoder_files import EncoderFormat
from ddpmseg.weights.shapes import Shapes


def gan_encoder_settings(shapes: Shapes) -> dict[str, Any]:
    """`channels` of such a network; ValueError where its parameters are none's."""
    return {"channels": encoder_channels(shapes)}


GAN_ENCODER = EncoderFormat(
    marker=MARKER,
    dropped=("decoder.", "encoder.styles.", "latent_avg"),
    settings=gan_encoder_settings,
)


class GanEncoderBackbone(EncoderBackbone):
    """The encoder of e4e with the weights of a checkpoint, or with its initial ones as a control.

    Blocks 0..23 are the bottlenecks of its IR-SE-50, numbered as in the file (`encoder.body.N`);
    blocks 24 and 25 are the levels of its feature pyramid at 1/8 and 1/4 of its input. What follows
    are single codes without a map. The paper does not say which it read; by default all bottlenecks
    are, 5824 features per pixel.

    Args:
        name: shown in tables and messages.
        channels: of its deepest maps; 512 in all published files.
        input_size: side, in pixels, to which images are resized for it; it was trained on 256. Maps
            that are larger than the image are reduced to it, see `encoder.reduced`.
        checkpoint: a file of e4e (`state_dict` within, keys beginning with 'encoder.' and
            'decoder.'), its state dict alone as .pt, .pth or .safetensors, or 'random'. The
            generator and the heads that make codes for it are left out.
        precision: in which the network runs, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: of the weight file; None: as recorded where it was downloaded, else any.

    Raises ConfigError for settings that build no network, CheckpointError for a file that does not
    fit it, or is another than expected.
    Source: Tov et al. 2021 (arXiv 2102.02766); Baranchuk et al. 2022, section 4.
    """

    family = "gan_encoder"
    mean = std = (0.5, 0.5, 0.5)
    resampling = "bilinear"  # as Pillow in the original code
    network: nn.ModuleDict

    def __init__(
        self,
        name: str,
        channels: int,
        input_size: int,
        checkpoint: str,
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        super().__init__(name, input_size, precision, seed)
        check_settings(channels, input_size)
        self.settings = {"channels": channels, "input_size": input_size}
        self.input_size = input_size
        build = partial(_network, channels)
        self.network = self.with_weights(build, checkpoint, GAN_ENCODER, sha256).eval()
        self.encoder.fold_constants(self.dtype)
        self.blocks = self.encoder.block_specs()
        self.freeze()

    @property
    def encoder(self) -> PyramidEncoder:
        encoder = self.network["encoder"]
        assert isinstance(encoder, PyramidEncoder)
        return encoder

    def passed(self, images: Tensor) -> Iterator[Tensor]:
        return self.encoder.passed(images)


def _network(channels: int) -> nn.ModuleDict:
    """Its parameters are named as in the file."""
    return nn.ModuleDict({"encoder": PyramidEncoder(channels)})
