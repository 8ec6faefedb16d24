"""Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters" (2016).

A fire module squeezes its input into few channels by 1x1 convolutions and expands these by 1x1 and
3x3 ones side by side. The classifier is a 1x1 convolution and a mean. Version 1.0 is the paper's;
1.1, by its authors, pools earlier and costs 2.4 times less.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

# Rows of (squeeze, expand to each of 1x1 and 3x3), "pool" between them.
FIRES = {
    "1.0": [(16, 64), (16, 64), (32, 128), "pool", (32, 128), (48, 192), (48, 192), (64, 256),
            "pool", (64, 256)],
    "1.1": [(16, 64), (16, 64), "pool", (32, 128), (32, 128), "pool", (48, 192), (48, 192),
            (64, 256), (64, 256)],
}  # fmt: skip


class Fire(nn.Module):
    """Figure 1 of the paper: in_channels -> squeeze -> twice `expand` channels."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.squeeze_activation(self.squeeze(x))
        one = self.expand1x1_activation(self.expand1x1(x))
        three = self.expand3x3_activation(self.expand3x3(x))
        return np.concatenate([one, three], axis=1)


class SqueezeNet(nn.Module):
    """(N, in_channels, 224, 224), or another size from 21 on -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, version: str = "1.0") -> None:
        super().__init__()
        if version not in FIRES:
            raise ValueError(f"squeezenet: version must be one of {(*FIRES,)}, got {version!r}")
        channels, size = (96, 7) if version == "1.0" else (64, 3)
        self.features = nn.Sequential(nn.Conv2d(in_channels, channels, size, stride=2), nn.ReLU())
        for row in ["pool", *FIRES[version]]:
            if row == "pool":
                self.features.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            else:
                self.features.append(Fire(channels, *row))
                channels = 2 * row[1]
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(channels, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.flatten = nn.Flatten()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.flatten(self.classifier(self.features(x)))


def squeezenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    version: str = "1.0",
    dtype: Any = None,
    weights: Weights = None,
) -> SqueezeNet:
    """SqueezeNet for 224x224, version "1.0" or "1.1"."""
    return build(SqueezeNet, num_classes, in_channels, version, dtype=dtype, weights=weights)
