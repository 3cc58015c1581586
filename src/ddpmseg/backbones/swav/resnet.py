"""A ResNet of torchvision's bottlenecks at any width, without a classifier."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck, conv1x1

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.weights.shapes import Shapes

STEM_STRIDE = 4


class ResNet(nn.Module):
    """A ResNet with the parameter names of torchvision's `resnet50`, whose stem has 64 channels.

    At 128 channels every map is twice as wide, while torchvision's `wide_resnet50_2` widens only
    the 3x3 convolutions in the bottlenecks. SwAV's stem pads by 1 before a convolution that pads by
    2, which equals a padding of 3. Source: facebookresearch/swav, `src/resnet50.py`.
    """

    def __init__(self, channels: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels = channels
        for stage, count in enumerate(stages):
            width = channels * 2**stage
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(_bottleneck(in_channels, width, stride))
                in_channels = width * Bottleneck.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # torchvision's initial values: without them the maps of an untrained network fade
                # from block to block.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h / 4, w / 4)"""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def bottlenecks(self) -> Iterator[tuple[str, Bottleneck]]:
        """Yield ('layer1[0]', block) and so on, in the order of the forward pass."""
        for stage in range(1, self.num_stages + 1):
            for index, block in enumerate(self.get_submodule(f"layer{stage}").children()):
                assert isinstance(block, Bottleneck)
                yield f"layer{stage}[{index}]", block

    def block_specs(self) -> tuple[BlockSpec, ...]:
        specs, stride = [], STEM_STRIDE
        for index, (name, block) in enumerate(self.bottlenecks()):
            before, after = block.conv1.in_channels, block.conv3.out_channels
            specs.append(BlockSpec(index, after, stride * block.stride, before, stride, name))
            stride *= block.stride
        return tuple(specs)

    def fold_batch_norms(self) -> None:
        """Merge each frozen batch norm into the convolution before it; maps stay the same.

        Call this in eval mode, after weights are loaded and before they are rounded to 16 bits.
        """
        self.conv1, self.bn1 = _fold(self.conv1, self.bn1)
        for _, block in self.bottlenecks():
            block.conv1, block.bn1 = _fold(block.conv1, block.bn1)
            block.conv2, block.bn2 = _fold(block.conv2, block.bn2)
            block.conv3, block.bn3 = _fold(block.conv3, block.bn3)
            if block.downsample is not None:
                block.downsample = nn.Sequential(*_fold(*block.downsample.children()))


def _bottleneck(in_channels: int, width: int, stride: int) -> Bottleneck:
    channels, downsample = width * Bottleneck.expansion, None
    if stride != 1 or in_channels != channels:
        downsample = nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
    return Bottleneck(in_channels, width, stride, downsample)


def _fold(convolution: Any, norm: Any) -> tuple[Any, Any]:
    return fuse_conv_bn_eval(convolution, norm), nn.Identity()


def resnet_settings(shapes: Shapes) -> dict[str, Any]:
    """Infer `channels` and `stages`. Raises ValueError for parameters of another network."""
    stem = shapes.get("conv1.weight")
    if stem is None or len(stem) != 4:
        raise ValueError("there is no stem 'conv1.weight'")
    stages: list[int] = []
    while f"layer{len(stages) + 1}.0.conv1.weight" in shapes:
        stage = f"layer{len(stages) + 1}."
        stages.append(len({key.split(".")[1] for key in shapes if key.startswith(stage)}))
    if "layer1.0.conv3.weight" not in shapes:
        raise ValueError("its blocks are no bottlenecks: there is no 'layer1.0.conv3.weight'")
    return {"channels": stem[0], "stages": stages}
