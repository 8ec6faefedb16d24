"""Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks" (2017).

Every layer of a dense block sees the maps of all layers before it and adds 32 of its own; between
blocks a transition halves channels and image. DenseNet-BC: a 1x1 to 128 channels before each 3x3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

GROWTH = 32
WIDTH = 4 * GROWTH  # of the 1x1 in a layer


class DenseLayer(nn.Module):
    """Everything so far -> GROWTH maps. Normalisation and ReLU come before each convolution."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, WIDTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(WIDTH)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(WIDTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.Module):
    """(N, C, H, W) -> (N, C + depth * GROWTH, H, W)."""

    def __init__(self, in_channels: int, depth: int) -> None:
        super().__init__()
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", DenseLayer(in_channels + i * GROWTH))

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.children():
            x = np.concatenate([x, layer(x)], axis=1)
        return x


def transition(channels: int) -> nn.Sequential:
    """Half the channels, half the height and width."""
    return nn.Sequential(
        {
            "norm": nn.BatchNorm2d(channels),
            "relu": nn.ReLU(),
            "conv": nn.Conv2d(channels, channels // 2, 1, bias=False),
            "pool": nn.AvgPool2d(2),
        }
    )


class DenseNet(nn.Module):
    """(N, in_channels, 224, 224), or another size from 29 on -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(
        self, depths: tuple[int, ...], num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        channels = 2 * GROWTH
        self.features = nn.Sequential(
            {
                "conv0": nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False),
                "norm0": nn.BatchNorm2d(channels),
                "relu0": nn.ReLU(),
                "pool0": nn.MaxPool2d(3, 2, 1),
            }
        )
        for number, depth in enumerate(depths, 1):
            if number > 1:
                self.features.add_module(f"transition{number - 1}", transition(channels))
                channels //= 2
            self.features.add_module(f"denseblock{number}", DenseBlock(channels, depth))
            channels += depth * GROWTH
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.relu(self.features(x))
        return self.classifier(self.flatten(self.avgpool(x)))

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray], strict: bool = True):
        """As any module's; also with the names of torchvision's published file, `norm.1` for `norm1`."""
        old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
        state = {old.sub(r"\1\2", name): array for name, array in state_dict.items()}
        return super().load_state_dict(state, strict)


def densenet121(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> DenseNet:
    """DenseNet-121, for 224x224."""
    depths = (6, 12, 24, 16)
    return build(DenseNet, depths, num_classes, in_channels, dtype=dtype, weights=weights)
