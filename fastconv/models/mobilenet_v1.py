"""Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (2017).

Every convolution but the first is split in two: one 3x3 filter a channel, then a 1x1 across channels,
which costs 1/channels + 1/9 of the full one. Parameter names as in timm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

# (channels, blocks) of a stage; all but the first start with a stride of two.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))


class DepthwiseSeparable(nn.Module):
    """3x3 depthwise, then 1x1, each with batch normalisation and ReLU6: figure 3 of the paper."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU6()

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.act(self.bn1(self.conv_dw(x)))
        return self.act(self.bn2(self.conv_pw(x)))


class MobileNetV1(nn.Module):
    """(N, in_channels, 224, 224), or another size -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(in_channels, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act = nn.ReLU6()
        self.blocks = nn.Sequential()
        before = 32
        for stage, (channels, depth) in enumerate(STAGES):
            blocks = nn.Sequential()
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(DepthwiseSeparable(before, channels, stride))
                before = channels
            self.blocks.append(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        return self.classifier(self.flatten(self.avgpool(x)))


def mobilenet_v1(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> MobileNetV1:
    """MobileNet-v1 of full width, for 224x224."""
    return build(MobileNetV1, num_classes, in_channels, dtype=dtype, weights=weights)
