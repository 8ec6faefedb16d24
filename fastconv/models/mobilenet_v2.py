"""Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018).

A block widens its few channels with a 1x1, filters each with a 3x3, and narrows them again without an
activation; the shortcut joins the narrow ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

# The paper's table 2: (expansion, channels, blocks, stride of the first).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_norm_act(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size but for the stride, batch normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """The block of the paper's figure 4d; a shortcut only where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        widening = [conv_norm_act(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widening,
            conv_norm_act(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """(N, in_channels, 224, 224), or another size -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_norm_act(in_channels, 32, 3, 2))
        before = 32
        for expansion, channels, depth, stride in STAGES:
            for position in range(depth):
                block = InvertedResidual(
                    before, channels, stride if position == 0 else 1, expansion
                )
                self.features.append(block)
                before = channels
        self.features.append(conv_norm_act(before, 1280, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def mobilenet_v2(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> MobileNetV2:
    """MobileNet-v2 of full width, for 224x224."""
    return build(MobileNetV2, num_classes, in_channels, dtype=dtype, weights=weights)
