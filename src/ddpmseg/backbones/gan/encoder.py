"""The encoder that inverts a GAN: the paper's baseline "GAN Encoder"."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.backbones.gan.e4e import MARKER, PyramidEncoder, check_settings, encoder_channels
from ddpmseg.weights.encoder_files import EncoderFormat
from ddpmseg.weights.shapes import Shapes


def gan_encoder_settings(shapes: Shapes) -> dict[str, Any]:
    """Infer `channels`. Raises ValueError for parameters of another network."""
    return {"channels": encoder_channels(shapes)}


GAN_ENCODER = EncoderFormat(
    marker=MARKER,
    dropped=("decoder.", "encoder.styles.", "latent_avg"),
    settings=gan_encoder_settings,
)


class GanEncoderBackbone(EncoderBackbone):
    """The encoder of e4e with pretrained weights, or with random ones as a control.

    Blocks 0..23 are the bottlenecks of its IR-SE-50, numbered as in the file (`encoder.body.N`);
    blocks 24 and 25 are the levels of its feature pyramid at 1/8 and 1/4 of its input. Later layers
    give codes without a map. The paper does not say which layers it read; the default is all
    bottlenecks, 5824 features per pixel.

    Args:
        name: shown in tables and messages.
        channels: channels of its deepest maps; 512 in all published files.
        input_size: side in pixels to which images are resized; it was trained on 256. Maps larger
            than the image are reduced to its size, see `encoder.limit_size`.
        checkpoint: a file of e4e (with `state_dict`, keys beginning with 'encoder.' and
            'decoder.'), its bare state dict as .pt, .pth or .safetensors, or 'random'. The
            generator and the heads that compute its codes are ignored.
        precision: precision of the network, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for settings that build no network, CheckpointError for a file that does not
    fit the network or has another digest.
    Source: Tov et al. 2021 (arXiv 2102.02766); Baranchuk et al. 2022, section 4.
    """

    family = "gan_encoder"
    mean = std = (0.5, 0.5, 0.5)
    resampling = "bilinear"  # Pillow's in the original code
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

    def iterate_maps(self, images: Tensor) -> Iterator[Tensor]:
        return self.encoder.iterate_maps(images)


def _network(channels: int) -> nn.ModuleDict:
    """The network, with the parameter names of the file."""
    return nn.ModuleDict({"encoder": PyramidEncoder(channels)})
