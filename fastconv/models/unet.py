"""Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015).

Down four times, two 3x3 convolutions at each size, and up again by transposed convolution; at every
size the maps from the way down are stacked onto those from the way up, so that what is known about
the whole meets what is known about the place. "paper" pads nothing, so that 572x572 becomes 388x388
and the maps from the way down are cropped. "padded", by now the usual one, keeps the size, with batch
normalisation; parameter names as in the PyTorch U-Net whose files go by `inc`, `down1` and `outc`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv import nn
from fastconv.models._build import Weights, build, one_of


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with ReLU."""

    def __init__(self, in_channels: int, out_channels: int, padded: bool) -> None:
        super().__init__()
        layers = []
        for before in (in_channels, out_channels):
            layers.append(nn.Conv2d(before, out_channels, 3, padding=int(padded), bias=not padded))
            if padded:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.double_conv(x)


class Down(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int, padded: bool) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), DoubleConv(channels, 2 * channels, padded)
        )

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Twice the size, half the channels, with the maps from the way down stacked on between."""

    def __init__(self, channels: int, padded: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.conv = DoubleConv(channels, channels // 2, padded)
        self.padded = padded

    def forward(self, x: np.ndarray, skip: np.ndarray) -> np.ndarray:
        x = self.up(x)
        rows, columns = (skip.shape[axis] - x.shape[axis] for axis in (2, 3))
        top, left = rows // 2, columns // 2
        if not self.padded:
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        elif rows or columns:  # an odd size has lost a row or column on the way down
            x = F.pad(x, (left, columns - left, top, rows - top))
        return self.conv(np.concatenate([skip, x], axis=1))


class OutConv(nn.Module):
    """A 1x1 convolution to the classes."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.conv(x)


class UNet(nn.Module):
    """(N, in_channels, H, W), from 16x16 on -> (N, num_classes, H, W); "paper": 184 less each way."""

    def __init__(self, num_classes: int = 2, in_channels: int = 3, variant: str = "padded") -> None:
        super().__init__()
        padded = one_of("unet", variant, ("padded", "paper")) == "padded"
        self.image_size = (64, 64) if padded else (188, 188)  # small ones that fit
        self.inc = DoubleConv(in_channels, 64, padded)
        self.down1 = Down(64, padded)
        self.down2 = Down(128, padded)
        self.down3 = Down(256, padded)
        self.down4 = Down(512, padded)
        self.up1 = Up(1024, padded)
        self.up2 = Up(512, padded)
        self.up3 = Up(256, padded)
        self.up4 = Up(128, padded)
        self.outc = OutConv(64, num_classes)

    def forward(self, x: np.ndarray) -> np.ndarray:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)


def unet(
    num_classes: int = 2,
    in_channels: int = 3,
    *,
    variant: str = "padded",
    dtype: Any = None,
    weights: Weights = None,
) -> UNet:
    """U-Net: "padded" keeps the size and has batch normalisation, "paper" has neither."""
    return build(UNet, num_classes, in_channels, variant, dtype=dtype, weights=weights)
