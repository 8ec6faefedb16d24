"""LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998).

Two convolutions, each with a pooling that halves the image, then three fully connected layers:
28x28 -> 6@28x28 -> 6@14x14 -> 16@10x10 -> 16@5x5 -> 120 -> 84 -> 10. The first convolution pads the
28x28 digit, where the paper sees it on a field of 32x32. As is usual by now every map of the second
convolution sees all six of the first, and a linear layer takes the place of the radial basis
functions at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build, one_of


class LeNet5(nn.Module):
    """(N, in_channels, 28, 28) -> (N, num_classes)."""

    image_size = (28, 28)

    def __init__(self, num_classes: int = 10, in_channels: int = 1, variant: str = "paper") -> None:
        super().__init__()
        paper = one_of("lenet5", variant, ("paper", "relu")) == "paper"
        activation, pool = (nn.Sigmoid, nn.AvgPool2d) if paper else (nn.ReLU, nn.MaxPool2d)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2),
            activation(),
            pool(2),
            nn.Conv2d(6, 16, 5),
            activation(),
            pool(2),
        )
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            activation(),
            nn.Linear(120, 84),
            activation(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.classifier(self.flatten(self.features(x)))


def lenet5(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    variant: str = "paper",
    dtype: Any = None,
    weights: Weights = None,
) -> LeNet5:
    """LeNet-5 for 28x28: "paper" with sigmoids and average pooling, "relu" with ReLU and maxima."""
    return build(LeNet5, num_classes, in_channels, variant, dtype=dtype, weights=weights)
