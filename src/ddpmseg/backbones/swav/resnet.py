"""A ResNet of bottlenecks at any width, made of torchvision's parts, without a classifier."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck, conv1x1

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.weights.shapes import Shapes

STEM_STRIDE = 4


class ResNet(nn.Module):
    """Parameters are named as in torchvision's `resnet50`, which has 64 channels in its stem.

    At 128 channels every map is twice as wide: torchvision's `wide_resnet50_2` widens only the
    3x3 convolutions within the bottlenecks. SwAV's own stem pads by 1 before a convolution that
    pads by 2; that is a padding of 3. Source: facebookresearch/swav, `src/resnet50.py`.
    """

    def __init__(self, channels: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        entering = channels
        for stage, count in enumerate(stages):
            width = channels * 2**stage
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(_bottleneck(entering, width, stride))
                entering = width * Bottleneck.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The network's own initial values, as in torchvision: without them the maps of an
                # untrained one fade from block to block.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h / 4, w / 4)"""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def bottlenecks(self) -> Iterator[tuple[str, Bottleneck]]:
        """('layer1[0]', block) and so on, in the order of the forward pass."""
        for stage in range(1, self.num_stages + 1):
            for index, block in enumerate(self.get_submodule(f"layer{stage}").children()):
                assert isinstance(block, Bottleneck)
                yield f"layer{stage}[{index}]", block

    def block_specs(self) -> tuple[BlockSpec, ...]:
        specs, stride = [], STEM_STRIDE
        for index, (name, block) in enumerate(self.bottlenecks()):
            entering, leaving = block.conv1.in_channels, block.conv3.out_channels
            specs.append(BlockSpec(index, leaving, stride * block.stride, entering, stride, name))
            stride *= block.stride
        return tuple(specs)

    def fold_batch_norms(self) -> None:
        """Make each frozen batch norm part of the convolution before it: the same function.

        To be called in eval mode, once weights are loaded, and before they are rounded to 16 bits.
        """
        self.conv1, self.bn1 = _folded(self.conv1, self.bn1)
        for _, block in self.bottlenecks():
            block.conv1, block.bn1 = _folded(block.conv1, block.bn1)
            block.conv2, block.bn2 = _folded(block.conv2, block.bn2)
            block.conv3, block.bn3 = _folded(block.conv3, block.bn3)
            if block.downsample is not None:
                block.downsample = nn.Sequential(*_folded(*block.downsample.children()))


def _bottleneck(entering: int, width: int, stride: int) -> Bottleneck:
    leaving, downsample = width * Bottleneck.expansion, None
    if stride != 1 or entering != leaving:
        downsample = nn.Sequential(conv1x1(entering, leaving, stride), nn.BatchNorm2d(leaving))
    return Bottleneck(entering, width, stride, downsample)


def _folded(convolution: Any, norm: Any) -> tuple[Any, Any]:
    return fuse_conv_bn_eval(convolution, norm), nn.Identity()


def resnet_settings(shapes: Shapes) -> dict[str, Any]:
    """`channels` and `stages` of such a network; ValueError where its parameters are none's."""
    stem = shapes.get("conv1.weight")
    if stem is None or len(stem) != 4:
        raise ValueError("there is no stem 'conv1.weight'")
    stages: list[int] = []
    while f"layer{len(stages) + 1}.0.conv1.weight" in shapes:
        stage = f"layer{len(stages) + 1}."
        stages.append(len({key.split(".")[1] for key in shapes if key.startswith(stage)}))
    if "layer1.0.conv3.weight" not in shapes:
        raise ValueError("its blocks are no bottlenecks: 'layer1.0.conv3.weight' is not there")
    return {"channels": stem[0], "stages": stages}
