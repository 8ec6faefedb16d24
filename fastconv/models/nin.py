"""Lin, Chen and Yan, "Network in Network" (2014).

Each convolution is followed by two 1x1 convolutions, a small perceptron that slides over the image,
and the mean over each map of the last one is the score of a class: no fully connected layer.
"paper" is the network for CIFAR-10 that the text describes, "imagenet" the one of four such blocks
that its authors published for ImageNet with Caffe, whose pooling rounds up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import nn
from fastconv.models._build import Weights, build, one_of


def mlpconv(channels: tuple[int, ...], kernel_size: int, **options: int) -> list[nn.Module]:
    """A convolution from the first to the second number of channels, then 1x1 to each further one."""
    layers = [nn.Conv2d(channels[0], channels[1], kernel_size, **options), nn.ReLU()]
    for before, after in zip(channels[1:-1], channels[2:], strict=True):
        layers += [nn.Conv2d(before, after, 1), nn.ReLU()]
    return layers


def _blocks_for_imagenet(num_classes: int, in_channels: int) -> list[nn.Module]:
    return [
        *mlpconv((in_channels, 96, 96, 96), 11, stride=4),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        *mlpconv((96, 256, 256, 256), 5, padding=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        *mlpconv((256, 384, 384, 384), 3, padding=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(),
        *mlpconv((384, 1024, 1024, num_classes), 3, padding=1),
    ]


def _blocks_of_the_paper(num_classes: int, in_channels: int) -> list[nn.Module]:
    return [
        *mlpconv((in_channels, 192, 160, 96), 5, padding=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(),
        *mlpconv((96, 192, 192, 192), 5, padding=2),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(),
        *mlpconv((192, 192, 192, num_classes), 3, padding=1),
    ]


class NiN(nn.Module):
    """(N, in_channels, 224, 224), "paper" 32x32, or another size -> (N, num_classes)."""

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, variant: str = "imagenet"
    ) -> None:
        super().__init__()
        paper = one_of("nin", variant, ("imagenet", "paper")) == "paper"
        blocks = _blocks_of_the_paper if paper else _blocks_for_imagenet
        self.image_size = (32, 32) if paper else (224, 224)
        self.features = nn.Sequential(*blocks(num_classes, in_channels))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.flatten(self.avgpool(self.features(x)))


def nin(
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    variant: str = "imagenet",
    dtype: Any = None,
    weights: Weights = None,
) -> NiN:
    """Network in network: "imagenet" for 224x224 and 1000 classes, "paper" for 32x32 and 10."""
    if num_classes is None:
        num_classes = 10 if variant == "paper" else 1000
    return build(NiN, num_classes, in_channels, variant, dtype=dtype, weights=weights)
