"""Ma, Zhang, Zheng and Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018).

A unit works on one half of the channels and leaves the other as it is; then both are shuffled. Where
the image is halved, two branches see all channels and double their number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

UNITS = (4, 8, 4)
# The paper's table 5: channels of the stages 2 to 4 and of the last convolution, by width.
CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    """1x1 convolution, batch normalisation, ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


def depthwise(channels: int, stride: int) -> list[nn.Module]:
    """3x3 depthwise convolution, batch normalisation."""
    return [
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    ]


class Unit(nn.Module):
    """Figure 3c of the paper, or 3d where the stride is two."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.split = half if stride == 1 else None
        seen = in_channels if stride == 2 else half
        self.branch1 = nn.Sequential()
        if stride == 2:
            self.branch1.extend([*depthwise(in_channels, 2), *pointwise(in_channels, half)])
        self.branch2 = nn.Sequential(
            *pointwise(seen, half), *depthwise(half, stride), *pointwise(half, half)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: np.ndarray) -> np.ndarray:
        one, other = (x, x) if self.split is None else (x[:, : self.split], x[:, self.split :])
        return self.shuffle(np.concatenate([self.branch1(one), self.branch2(other)], axis=1))


class ShuffleNetV2(nn.Module):
    """(N, in_channels, 224, 224), or another size -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        if width not in CHANNELS:
            raise ValueError(f"shufflenet_v2: width must be one of {(*CHANNELS,)}, got {width!r}")
        *stages, last = CHANNELS[width]
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 24
        for number, (channels, depth) in enumerate(zip(stages, UNITS, strict=True), 2):
            stage = nn.Sequential(Unit(before, channels, 2))
            stage.extend(Unit(channels, channels, 1) for _ in range(depth - 1))
            self.add_module(f"stage{number}", stage)
            before = channels
        self.conv5 = nn.Sequential(*pointwise(before, last))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def shufflenet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    dtype: Any = None,
    weights: Weights = None,
) -> ShuffleNetV2:
    """ShuffleNet-v2 for 224x224, of width 0.5, 1.0, 1.5 or 2.0."""
    return build(ShuffleNetV2, num_classes, in_channels, width, dtype=dtype, weights=weights)
