"""Szegedy et al., "Going Deeper with Convolutions" (2015).

Nine inception blocks: branches with 1x1, 3x3 and 5x5 kernels and a pooling side by side, their maps
stacked, 1x1 convolutions before the large kernels to save work. "paper" is that network, with biases
and local response normalisation. "torchvision" has a 3x3 kernel in place of the 5x5 one and batch
normalisation with eps 1e-3, as its published weights were trained. The two auxiliary classifiers,
which serve training alone, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build, one_of


class BasicConv2d(nn.Module):
    """Convolution, batch normalisation if wanted, ReLU."""

    def __init__(self, paper: bool, in_channels: int, out_channels: int, *sizes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, *sizes, bias=paper)
        self.bn = nn.Identity() if paper else nn.BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """The block of the paper's figure 2b. `channels` are the six numbers of a row of its table 1."""

    def __init__(self, paper: bool, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        c1, c3_reduce, c3, c5_reduce, c5, c_pool = channels
        size, padding = (5, 2) if paper else (3, 1)
        self.branch1 = BasicConv2d(paper, in_channels, c1, 1)
        self.branch2 = nn.Sequential(
            BasicConv2d(paper, in_channels, c3_reduce, 1),
            BasicConv2d(paper, c3_reduce, c3, 3, 1, 1),
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(paper, in_channels, c5_reduce, 1),
            BasicConv2d(paper, c5_reduce, c5, size, 1, padding),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            BasicConv2d(paper, in_channels, c_pool, 1),
        )

    def forward(self, x: np.ndarray) -> np.ndarray:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return np.concatenate([branch(x) for branch in branches], axis=1)


class GoogLeNet(nn.Module):
    """(N, in_channels, 224, 224), or another size from 15 on -> (N, num_classes)."""

    image_size = (224, 224)

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, variant: str = "torchvision"
    ) -> None:
        super().__init__()
        paper = one_of("googlenet", variant, ("torchvision", "paper")) == "paper"

        def normalisation():
            # As in AlexNet: the alpha of the papers, 1e-4, multiplies a sum, not a mean.
            return nn.LocalResponseNorm(5, alpha=5e-4, k=2.0) if paper else nn.Identity()

        def halving(size=3):
            return nn.MaxPool2d(size, stride=2, ceil_mode=True)

        self.conv1 = BasicConv2d(paper, in_channels, 64, 7, 2, 3)
        self.maxpool1 = halving()
        self.norm1 = normalisation()
        self.conv2 = BasicConv2d(paper, 64, 64, 1)
        self.conv3 = BasicConv2d(paper, 64, 192, 3, 1, 1)
        self.norm2 = normalisation()
        self.maxpool2 = halving()
        self.inception3a = Inception(paper, 192, (64, 96, 128, 16, 32, 32))
        self.inception3b = Inception(paper, 256, (128, 128, 192, 32, 96, 64))
        self.maxpool3 = halving()
        self.inception4a = Inception(paper, 480, (192, 96, 208, 16, 48, 64))
        self.inception4b = Inception(paper, 512, (160, 112, 224, 24, 64, 64))
        self.inception4c = Inception(paper, 512, (128, 128, 256, 24, 64, 64))
        self.inception4d = Inception(paper, 512, (112, 144, 288, 32, 64, 64))
        self.inception4e = Inception(paper, 528, (256, 160, 320, 32, 128, 128))
        self.maxpool4 = halving(3 if paper else 2)
        self.inception5a = Inception(paper, 832, (256, 160, 320, 32, 128, 128))
        self.inception5b = Inception(paper, 832, (384, 192, 384, 48, 128, 128))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.4 if paper else 0.2)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        return self.fc(self.dropout(self.flatten(self.avgpool(x))))

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray], strict: bool = True):
        """As any module's; the auxiliary classifiers of a checkpoint are left out."""
        state = {k: v for k, v in state_dict.items() if not k.startswith(("aux1.", "aux2."))}
        return super().load_state_dict(state, strict)


def googlenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    variant: str = "torchvision",
    dtype: Any = None,
    weights: Weights = None,
) -> GoogLeNet:
    """GoogLeNet for 224x224: "torchvision" (3x3 for 5x5, batch normalisation) or "paper".

    torchvision's published weights want images with mean 0.5 and standard deviation 0.5 a channel.
    """
    return build(GoogLeNet, num_classes, in_channels, variant, dtype=dtype, weights=weights)
