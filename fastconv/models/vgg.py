"""Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015).

Nothing but 3x3 convolutions, in five stages that end with a pooling that halves the image, and three
fully connected layers, which hold most of the parameters. The letters A, B, D and E are the columns
of the paper's table 1; "bn" puts batch normalisation (Ioffe and Szegedy, 2015) after each convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

CHANNELS = (64, 128, 256, 512, 512)
# How many convolutions the five stages have.
A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """(N, in_channels, 224, 224), or another size from 32 on -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(
        self,
        depths: tuple[int, ...],
        batch_norm: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for channels, depth in zip(CHANNELS, depths, strict=True):
            for _ in range(depth):
                self.features.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                if batch_norm:
                    self.features.append(nn.BatchNorm2d(channels))
                self.features.append(nn.ReLU())
                in_channels = channels
            self.features.append(nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def vgg11(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-11, column A."""
    return build(VGG, A, False, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg11_bn(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-11, column A, with batch normalisation."""
    return build(VGG, A, True, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg13(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-13, column B."""
    return build(VGG, B, False, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg13_bn(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-13, column B, with batch normalisation."""
    return build(VGG, B, True, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg16(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-16, column D."""
    return build(VGG, D, False, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg16_bn(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-16, column D, with batch normalisation."""
    return build(VGG, D, True, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg19(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-19, column E."""
    return build(VGG, E, False, num_classes, in_channels, dtype=dtype, weights=weights)


def vgg19_bn(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> VGG:
    """VGG-19, column E, with batch normalisation."""
    return build(VGG, E, True, num_classes, in_channels, dtype=dtype, weights=weights)
