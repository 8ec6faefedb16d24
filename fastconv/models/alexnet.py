"""Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep CNNs" (2012).

Five convolutions and three fully connected layers. "paper" is the network of that text: its second,
fourth and fifth convolution have two groups, one for each of the two GPUs it was trained on, and the
first two are followed by local response normalisation. "torchvision" is the one of Krizhevsky, "One
weird trick for parallelizing convolutional neural networks" (2014): one GPU, so no groups, and no
normalisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build, one_of


def _features_of_the_paper(in_channels: int) -> list[nn.Module]:
    def normalisation():
        # The paper's alpha, 1e-4, multiplies the sum over five channels; the layer's, their mean.
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    return [
        nn.Conv2d(in_channels, 96, 11, stride=4, padding=2),  # so that 224 makes the paper's 55
        nn.ReLU(),
        normalisation(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        normalisation(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    ]


def _features_of_torchvision(in_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    ]


class AlexNet(nn.Module):
    """(N, in_channels, 224, 224), or another size from 63 on -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, variant: str = "torchvision"
    ) -> None:
        super().__init__()
        paper = one_of("alexnet", variant, ("torchvision", "paper")) == "paper"
        features = _features_of_the_paper if paper else _features_of_torchvision
        self.features = nn.Sequential(*features(in_channels))
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def alexnet(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    variant: str = "torchvision",
    dtype: Any = None,
    weights: Weights = None,
) -> AlexNet:
    """AlexNet for 224x224: "torchvision" without groups, "paper" with two and normalisation."""
    return build(AlexNet, num_classes, in_channels, variant, dtype=dtype, weights=weights)
