"""torchvision's DeepLabV3 for images with values 0..255."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models import (
    MobileNet_V3_Large_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    WeightsEnum,
)
from torchvision.models.segmentation import (
    DeepLabV3,
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
)

from ddpmseg.backbones.encoder import MEAN, STD
from ddpmseg.download.fetch import checked_sha256
from ddpmseg.errors import CheckpointError
from ddpmseg.heads.segment import Segmentation
from ddpmseg.heads.vote import image_uncertainty
from ddpmseg.weights.encoder_files import read_pretrained
from ddpmseg.weights.keywords import RANDOM
from ddpmseg.weights.shapes import Shapes, differences, listed, shapes_of
from ddpmseg.weights.wrappers import check_finite

Value = TypeVar("Value")


@dataclass(frozen=True)
class Architecture:
    """A DeepLabV3 and the ImageNet classifier that initialises its body."""

    build: Callable[..., DeepLabV3]
    imagenet: WeightsEnum
    """The classifier's weights, in the version that the paper's library had."""
    prefix: str
    """Prefix of the body's parameters in the classifier's file."""
    dropped: str
    """Prefix of the classifier's other parameters."""

    def network(self, num_classes: int) -> DeepLabV3:
        """Build the network with random weights; the library downloads nothing."""
        return self.build(
            weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False
        )


ARCHITECTURES = {
    "resnet101": Architecture(deeplabv3_resnet101, ResNet101_Weights.IMAGENET1K_V1, "", "fc."),
    "resnet50": Architecture(deeplabv3_resnet50, ResNet50_Weights.IMAGENET1K_V1, "", "fc."),
    "mobilenet": Architecture(
        deeplabv3_mobilenet_v3_large,
        MobileNet_V3_Large_Weights.IMAGENET1K_V1,
        "features.",
        "classifier.",
    ),
}
COUNTER = "num_batches_tracked"
"""A buffer of every batch norm that nothing here reads. Files older than torch 0.4.1 lack it."""


class DeepLab(nn.Module):
    """DeepLabV3 without auxiliary classifier.

    Args:
        architecture: a key of `ARCHITECTURES`.
        num_classes: outputs per pixel.
        seed: draws the initial weights.

    Source: Chen et al. 2017 (arXiv 1706.05587); Baranchuk et al. 2022, DatasetDDPM of its code.
    """

    def __init__(self, architecture: str, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.architecture, self.num_classes = architecture, num_classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ARCHITECTURES[architecture].network(num_classes)
        self.network = network.to(memory_format=torch.channels_last)
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h w"]:
        """Class scores (logits) of every pixel, for images in 0..255."""
        scaled = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return self.network(scaled.contiguous(memory_format=torch.channels_last))["out"].float()

    @torch.inference_mode()
    def segment(self, images: UInt8[Tensor, "n 3 s s"]) -> Segmentation:
        """Predict the mask of every image. Call it in eval mode."""
        scores = self(images)
        entropy = torch.special.entr(scores.softmax(dim=1)).sum(dim=1)
        # On a CPU, max is faster than argmax along an axis that is not the last.
        return Segmentation(scores.max(dim=1).indices, entropy, image_uncertainty(entropy))


def find_weights(architecture: str, checkpoint: str | None) -> Path | None:
    """The file of the body's initial weights; None for 'random'.

    `checkpoint` None means torchvision's file in torch's download folder. Nothing is downloaded
    here. Raises CheckpointError when the file does not exist.
    """
    if checkpoint == RANDOM:
        return None
    url = ARCHITECTURES[architecture].imagenet.url
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if checkpoint is not None:
        path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"`segmenter.checkpoint={'null' if checkpoint is None else checkpoint}`: there is no "
            f"file '{path}'. The paper starts from weights trained on ImageNet, which are not "
            f"fetched automatically: put {url} there, or give another file of the network "
            f"'{architecture}'. `segmenter.checkpoint=random` starts from random weights."
        )
    return path


def load_body(network: DeepLab, path: Path) -> str:
    """Load the network's body from an ImageNet classifier; returns the file's SHA-256.

    The file is torchvision's, or another with the same parameters, .safetensors included. Raises
    CheckpointError when it cannot be read or holds another network; the message says which.
    """
    digest = checked_sha256(path, None, CheckpointError)
    state = read_pretrained(path)
    body = network.network.backbone.state_dict()
    parameters = _body_of(state, network.architecture)
    actual, expected = (_without_counters(shapes_of(part)) for part in (parameters, body))
    if problems := differences(actual, expected):
        raise CheckpointError(
            f"checkpoint '{path}' does not fit `segmenter.architecture={network.architecture}` "
            f"({len(problems)} of {len(expected)} parameters differ):{listed(problems, 6)}\n"
            f"{_advice(shapes_of(state))}"
        )
    check_finite({key: parameters[key] for key in actual}, path)
    network.network.backbone.load_state_dict(body | {key: parameters[key] for key in actual})
    return digest


def _without_counters(shapes: Shapes) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not key.endswith(COUNTER)}


def _body_of(state: dict[str, Value], architecture: str) -> dict[str, Value]:
    """The body's parameters in a classifier's state dict, by their names in the body."""
    kind = ARCHITECTURES[architecture]
    return {
        key.removeprefix(kind.prefix): value
        for key, value in state.items()
        if not key.startswith(kind.dropped)
    }


def _advice(shapes: Shapes) -> str:
    """What to do about a file with these shapes, which does not fit."""
    if "backbone.conv1.weight" in shapes or "backbone.0.0.weight" in shapes:
        return (
            "It is a whole segmentation network. Give the ImageNet classifier of its body instead."
        )
    for name, kind in ARCHITECTURES.items():
        with torch.device("meta"):
            expected = _without_counters(shapes_of(kind.network(2).backbone.state_dict()))
        body = _body_of(dict(shapes), name)
        if all(body.get(key) == shape for key, shape in expected.items()):
            return f"The file fits with `segmenter.architecture={name}`."
    urls = ", ".join(kind.imagenet.url for kind in ARCHITECTURES.values())
    return f"Fetch one of {urls}."
