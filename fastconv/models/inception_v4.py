"""Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning" (2017).

A stem, then 4 blocks A at 35x35, 7 blocks B at 17x17 and 3 blocks C at 8x8, with reductions between
them. A 7x7 kernel is a 1x7 after a 7x1. Figures are the paper's; parameter names as in timm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build

Size = int | tuple[int, int]


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation with eps 1e-3, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, size: Size, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.act = nn.ReLU()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.act(self.bn(self.conv(x)))


def wide(in_channels: int, out_channels: int, size: int) -> ConvNormAct:
    """A row of `size` pixels, the image kept as it is."""
    return ConvNormAct(in_channels, out_channels, (1, size), padding=(0, size // 2))


def tall(in_channels: int, out_channels: int, size: int) -> ConvNormAct:
    """A column of `size` pixels, the image kept as it is."""
    return ConvNormAct(in_channels, out_channels, (size, 1), padding=(size // 2, 0))


def pooled(in_channels: int, out_channels: int) -> nn.Sequential:
    """The branch of a mean over 3x3, padding not counted, and a 1x1."""
    return nn.Sequential(
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        ConvNormAct(in_channels, out_channels, 1),
    )


class Branches(nn.Module):
    """The results of all children on the same input, stacked."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([branch(x) for branch in self.children()], axis=1)


def stem(in_channels: int) -> list[nn.Module]:
    """Figure 3: 299x299 -> 384@35x35."""
    return [
        ConvNormAct(in_channels, 32, 3, 2),
        ConvNormAct(32, 32, 3),
        ConvNormAct(32, 64, 3, padding=1),
        Branches(maxpool=nn.MaxPool2d(3, 2), conv=ConvNormAct(64, 96, 3, 2)),
        Branches(
            branch0=nn.Sequential(ConvNormAct(160, 64, 1), ConvNormAct(64, 96, 3)),
            branch1=nn.Sequential(
                ConvNormAct(160, 64, 1), wide(64, 64, 7), tall(64, 64, 7), ConvNormAct(64, 96, 3)
            ),
        ),
        Branches(conv=ConvNormAct(192, 192, 3, 2), maxpool=nn.MaxPool2d(3, 2)),
    ]


def block_a() -> Branches:
    """Figure 4: 384@35x35 -> the same."""
    return Branches(
        branch0=ConvNormAct(384, 96, 1),
        branch1=nn.Sequential(ConvNormAct(384, 64, 1), ConvNormAct(64, 96, 3, padding=1)),
        branch2=nn.Sequential(
            ConvNormAct(384, 64, 1),
            ConvNormAct(64, 96, 3, padding=1),
            ConvNormAct(96, 96, 3, padding=1),
        ),
        branch3=pooled(384, 96),
    )


def reduction_a() -> Branches:
    """Figure 7 with the numbers of table 1: 384@35x35 -> 1024@17x17."""
    return Branches(
        branch0=ConvNormAct(384, 384, 3, 2),
        branch1=nn.Sequential(
            ConvNormAct(384, 192, 1),
            ConvNormAct(192, 224, 3, padding=1),
            ConvNormAct(224, 256, 3, 2),
        ),
        branch2=nn.MaxPool2d(3, 2),
    )


def block_b() -> Branches:
    """Figure 5: 1024@17x17 -> the same."""
    return Branches(
        branch0=ConvNormAct(1024, 384, 1),
        branch1=nn.Sequential(ConvNormAct(1024, 192, 1), wide(192, 224, 7), tall(224, 256, 7)),
        branch2=nn.Sequential(
            ConvNormAct(1024, 192, 1),
            tall(192, 192, 7),
            wide(192, 224, 7),
            tall(224, 224, 7),
            wide(224, 256, 7),
        ),
        branch3=pooled(1024, 128),
    )


def reduction_b() -> Branches:
    """Figure 8: 1024@17x17 -> 1536@8x8."""
    return Branches(
        branch0=nn.Sequential(ConvNormAct(1024, 192, 1), ConvNormAct(192, 192, 3, 2)),
        branch1=nn.Sequential(
            ConvNormAct(1024, 256, 1),
            wide(256, 256, 7),
            tall(256, 320, 7),
            ConvNormAct(320, 320, 3, 2),
        ),
        branch2=nn.MaxPool2d(3, 2),
    )


class BlockC(nn.Module):
    """Figure 6: 1536@8x8 -> the same. Two branches end in a 1x3 and a 3x1 side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvNormAct(1536, 256, 1)
        self.branch1_0 = ConvNormAct(1536, 384, 1)
        self.branch1_1a = wide(384, 256, 3)
        self.branch1_1b = tall(384, 256, 3)
        self.branch2_0 = ConvNormAct(1536, 384, 1)
        self.branch2_1 = tall(384, 448, 3)
        self.branch2_2 = wide(448, 512, 3)
        self.branch2_3a = wide(512, 256, 3)
        self.branch2_3b = tall(512, 256, 3)
        self.branch3 = pooled(1536, 256)

    def forward(self, x: np.ndarray) -> np.ndarray:
        one = self.branch1_0(x)
        two = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        branches = [
            self.branch0(x),
            self.branch1_1a(one),
            self.branch1_1b(one),
            self.branch2_3a(two),
            self.branch2_3b(two),
            self.branch3(x),
        ]
        return np.concatenate(branches, axis=1)


class InceptionV4(nn.Module):
    """(N, in_channels, 299, 299), or another size from 75 on -> (N, num_classes)."""

    image_size = (299, 299)

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *stem(in_channels),
            *(block_a() for _ in range(4)),
            reduction_a(),
            *(block_b() for _ in range(7)),
            reduction_b(),
            *(BlockC() for _ in range(3)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.last_linear = nn.Linear(1536, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.last_linear(self.flatten(self.avgpool(self.features(x))))


def inception_v4(
    num_classes: int = 1000, in_channels: int = 3, *, dtype: Any = None, weights: Weights = None
) -> InceptionV4:
    """Inception-v4, for 299x299 images with mean 0.5 and standard deviation 0.5 a channel."""
    return build(InceptionV4, num_classes, in_channels, dtype=dtype, weights=weights)
