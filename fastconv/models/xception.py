"""Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions" (2017).

Fourteen blocks of depthwise separable convolutions with shortcuts around all but the last: the entry
flow shrinks the image, the middle flow repeats one block eight times, the exit flow widens to 2048.
Parameter names as in timm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build


class SeparableConv2d(nn.Module):
    """One 3x3 filter a channel, then a 1x1 across channels, nothing between."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """Separable convolutions, a halving pooling if `stride` is two, and the shortcut around them.

    `channels`: what goes in, and what comes out of each convolution.
    """

    def __init__(self, channels: tuple[int, ...], stride: int = 1, relu_first: bool = True) -> None:
        super().__init__()
        first, last = channels[0], channels[-1]
        layers = []
        for before, after in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.ReLU(), SeparableConv2d(before, after), nn.BatchNorm2d(after)]
        if stride != 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.skip = self.skipbn = nn.Identity()
        if stride != 1 or first != last:
            self.skip = nn.Conv2d(first, last, 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(last)
        self.rep = nn.Sequential(*(layers if relu_first else layers[1:]))

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.rep(x) + self.skipbn(self.skip(x))


class Xception(nn.Module):
    """(N, in_channels, 299, 299), or another size -> (N, num_classes)."""

    image_size = (299, 299)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = Block((64, 128, 128), 2, relu_first=False)
        self.block2 = Block((128, 256, 256), 2)
        self.block3 = Block((256, 728, 728), 2)
        self.middle = tuple(f"block{number}" for number in range(4, 12))
        for name in self.middle:
            self.add_module(name, Block((728, 728, 728, 728)))
        self.block12 = Block((728, 728, 1024), 2)
        self.conv3 = SeparableConv2d(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = SeparableConv2d(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.block3(self.block2(self.block1(x)))
        for name in self.middle:
            x = getattr(self, name)(x)
        x = self.relu(self.bn3(self.conv3(self.block12(x))))
        x = self.relu(self.bn4(self.conv4(x)))
        return self.fc(self.flatten(self.avgpool(x)))


def xception(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> Xception:
    """Xception, for 299x299 images with mean 0.5 and standard deviation 0.5 a channel."""
    return build(Xception, num_classes, in_channels, dtype=dtype, weights=weights)
