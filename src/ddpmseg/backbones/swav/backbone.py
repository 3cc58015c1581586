"""ResNets pretrained by SwAV on the paper's image domains, read out at their bottlenecks."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.backbones.swav.resnet import ResNet, resnet_settings
from ddpmseg.errors import ConfigError
from ddpmseg.weights.encoder_files import EncoderFormat

SWAV = EncoderFormat(
    marker="layer1.0.conv1.weight",
    dropped=("projection_head.", "prototypes.", "fc."),
    settings=resnet_settings,
)
IMAGE_SIZE = 256
"""Side of the crops in most trainings; the network takes any multiple of its stride."""


class SwavBackbone(EncoderBackbone):
    """A ResNet with pretrained weights of SwAV, or with random ones as a control.

    Blocks are the bottlenecks in the order of the forward pass, 0..15 for RN50. The paper reads the
    *inputs* of every second one of a stage: blocks 0, 2, 3, 5, 7, 9, 11, 13, 15 with
    `features.hook=input`, 6720 features per pixel, or 13440 in the network of doubled width.

    Args:
        name: shown in tables and messages.
        channels: channels of the stem; 64 for RN50, 128 for RN50w2.
        stages: number of bottlenecks in each stage.
        checkpoint: a file of SwAV (with `state_dict`, keys beginning with 'module.'), a bare state
            dict as .pt, .pth or .safetensors, or 'random'. Projection head, prototypes and
            classifier are ignored.
        precision: precision of the network, a key of `PRECISIONS`.
        seed: draws the weights when `checkpoint` is 'random'.
        sha256: expected digest of the weight file; None: the one recorded at its download, or any.

    Raises ConfigError for settings that build no network, CheckpointError for a file that does not
    fit the network or has another digest.
    Source: Caron et al. 2020 (arXiv 2006.09882); Baranchuk et al. 2022, `src/feature_extractors.py`
    of its code.
    """

    family = "swav"
    network: ResNet

    def __init__(
        self,
        name: str,
        channels: int,
        stages: Sequence[int],
        checkpoint: str,
        precision: str = "32",
        seed: int = 0,
        sha256: str | None = None,
    ) -> None:
        super().__init__(name, IMAGE_SIZE, precision, seed)
        if channels < 1 or not stages or min(stages) < 1:
            raise ConfigError(
                f"`backbone.channels={channels}`, `backbone.stages={list(stages)}`: a ResNet needs "
                "channels, and bottlenecks in each of its stages, as 64 and [3,4,6,3]."
            )
        self.settings = {"channels": channels, "stages": list(stages)}
        resnet = self.with_weights(lambda: ResNet(channels, stages), checkpoint, SWAV, sha256)
        self.blocks = resnet.block_specs()
        self.stride = self.blocks[-1].stride
        resnet.eval().fold_batch_norms()
        self.network = resnet.to(self.dtype).to(memory_format=torch.channels_last)
        self.freeze()

    def iterate_maps(self, images: Tensor) -> Iterator[Tensor]:
        h = self.network.stem(images)
        yield h
        for _, block in self.network.bottlenecks():
            h = block(h)
            yield h
