"""He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016), and two that follow it.

A block adds what its convolutions compute to its input, so that it need only learn the difference,
and a block of zeros is the identity. As in torchvision, the stride of a bottleneck is in its 3x3.
ResNeXt: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks" (2017): the 3x3 in
groups. SE-ResNet: Hu, Shen and Sun, "Squeeze-and-Excitation Networks" (2018): each channel scaled by
what the means of all channels say; parameter names as in timm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build


class SqueezeExcitation(nn.Module):
    """x times a factor a channel, which two small layers make of the means of all channels."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * self.gate(self.fc2(self.act(self.fc1(self.avgpool(x)))))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: np.ndarray) -> np.ndarray:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 to few channels, 3x3 among these, 1x1 to four times `channels`, and the shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        downsample: nn.Module,
        groups: int = 1,
        width_per_group: int = 64,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        width = channels * width_per_group // 64 * groups
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if squeeze else nn.Identity()
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: np.ndarray) -> np.ndarray:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return self.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """(N, in_channels, 224, 224), or another size -> (N, num_classes).

    `depths`: blocks in each of the four stages, which have 64, 128, 256 and 512 channels; all but
    the first stage start with a stride of two. `options` are those of `Bottleneck`.
    """

    image_size = (224, 224)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 64
        for stage, depth in enumerate(depths):
            channels, layer = 64 << stage, nn.Sequential()
            after = channels * block.expansion
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                downsample = nn.Identity()
                if stride != 1 or before != after:
                    downsample = nn.Sequential(
                        nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                    )
                layer.append(block(before, channels, stride, downsample, **(options or {})))
                before = after
            self.add_module(f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def resnet18(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNet-18."""
    return build(
        ResNet, BasicBlock, (2, 2, 2, 2), num_classes, in_channels, dtype=dtype, weights=weights
    )


def resnet34(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNet-34."""
    return build(
        ResNet, BasicBlock, (3, 4, 6, 3), num_classes, in_channels, dtype=dtype, weights=weights
    )


def resnet50(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNet-50."""
    return build(
        ResNet, Bottleneck, (3, 4, 6, 3), num_classes, in_channels, dtype=dtype, weights=weights
    )


def resnet101(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNet-101."""
    return build(
        ResNet, Bottleneck, (3, 4, 23, 3), num_classes, in_channels, dtype=dtype, weights=weights
    )


def resnet152(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNet-152."""
    return build(
        ResNet, Bottleneck, (3, 8, 36, 3), num_classes, in_channels, dtype=dtype, weights=weights
    )


def resnext50_32x4d(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNeXt-50 with 32 groups of 4 channels."""
    options = dict(groups=32, width_per_group=4)
    sizes = (num_classes, in_channels)
    return build(ResNet, Bottleneck, (3, 4, 6, 3), *sizes, options, dtype=dtype, weights=weights)


def resnext101_32x8d(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNeXt-101 with 32 groups of 8 channels."""
    options = dict(groups=32, width_per_group=8)
    sizes = (num_classes, in_channels)
    return build(ResNet, Bottleneck, (3, 4, 23, 3), *sizes, options, dtype=dtype, weights=weights)


def se_resnet50(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ResNet:
    """ResNet-50 with squeeze-and-excitation in every block."""
    options = dict(squeeze=True)
    sizes = (num_classes, in_channels)
    return build(ResNet, Bottleneck, (3, 4, 6, 3), *sizes, options, dtype=dtype, weights=weights)
