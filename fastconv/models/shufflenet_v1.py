"""Zhang, Zhou, Lin and Sun, "ShuffleNet: An Extremely Efficient CNN for Mobile Devices" (2018).

1x1 convolutions in three groups, and between them a shuffle of the channels, without which no group
would ever hear of the others. Parameter names in the manner of torchvision's ShuffleNet-v2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

GROUPS = 3
# The column "g = 3" of the paper's table 1: (channels, units) of the stages 2 to 4.
STAGES = ((240, 4), (480, 8), (960, 4))


class Unit(nn.Module):
    """Figure 2b of the paper, or 2c where the stride is two: there the input, averaged, is stacked on."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        hidden, added = out_channels // 4, out_channels - (in_channels if stride == 2 else 0)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.shuffle = nn.ChannelShuffle(GROUPS)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, added, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(added)
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.relu = nn.ReLU()

    def forward(self, x: np.ndarray) -> np.ndarray:
        out = self.shuffle(self.relu(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        if self.pool is None:
            return self.relu(x + out)
        return self.relu(np.concatenate([self.pool(x), out], axis=1))


class ShuffleNetV1(nn.Module):
    """(N, in_channels, 224, 224), or another size -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 24
        for number, (channels, depth) in enumerate(STAGES, 2):
            stage = nn.Sequential()
            for position in range(depth):
                stride = 2 if position == 0 else 1
                # The very first 1x1 has too few input channels for groups (section 3.2).
                groups = 1 if number == 2 and position == 0 else GROUPS
                stage.append(Unit(before, channels, stride, groups))
                before = channels
            self.add_module(f"stage{number}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        return self.fc(self.flatten(self.avgpool(x)))


def shufflenet_v1(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> ShuffleNetV1:
    """ShuffleNet-v1 of full width with three groups, for 224x224."""
    return build(ShuffleNetV1, num_classes, in_channels, dtype=dtype, weights=weights)
