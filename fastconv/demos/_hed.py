"""Xie and Tu, "Holistically-Nested Edge Detection" (2015).

The thirteen convolutions of VGG-16. Each of its five stages ends in a side output, one map that a 1x1
convolution makes of all channels and that is resized to the image: early ones see fine texture, late
ones the outlines of things. A last 1x1 convolution weighs the five.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import fastconv
from fastconv import nn
from fastconv.checkpoints import CheckpointError
from fastconv.demos._packages import tool
from fastconv.nn.initialisation import unfilled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # VGG's D
MEAN = (104.007, 116.669, 122.679)  # of the blue, green and red of ImageNet, 0 to 255


class HED(nn.Module):
    """(N, 3, H, W), blue, green, red minus MEAN -> (N, 6, H, W): five side outputs, and the fused one.

    Where an output is above 0, it says edge; its sigmoid is how likely. Stages and side outputs have
    the names of the Keras model whose weights they take, `block1.conv2d.weight` to `fuse.bias`.
    """

    def __init__(self) -> None:
        super().__init__()
        before = 3
        for number, channels in enumerate(STAGES, 1):
            layers = {} if number == 1 else {"pool": nn.MaxPool2d(2, ceil_mode=True)}
            for place, after in enumerate(channels):
                layers[_keras_name(place)] = nn.Conv2d(before, after, 3, padding=1)
                layers[f"relu_{place}"] = nn.ReLU()
                before = after
            self.add_module(f"block{number}", nn.Sequential(layers))
            self.add_module(f"dsn{number}", nn.Conv2d(before, 1, 1))
        self.fuse = nn.Conv2d(len(STAGES), 1, 1)

    def forward(self, x: np.ndarray) -> np.ndarray:
        size, sides = x.shape[2:], []
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f"block{number}")(x)
            side = getattr(self, f"dsn{number}")(x)
            if number > 1:
                side = fastconv.interpolate(side, size=size, mode="bilinear")
            sides.append(side)
        maps = np.concatenate(sides, axis=1)
        return np.concatenate([maps, self.fuse(maps)], axis=1)


def _keras_name(place: int) -> str:
    """What Keras calls the layers of one type in a row: conv2d, conv2d_1, conv2d_2."""
    return f"conv2d_{place}" if place else "conv2d"


def load(path: Path) -> HED:
    """HED with the weights of a Keras 3 file (.weights.h5), in `eval()` mode.

    CommandError without h5py; CheckpointError if the file has other weights, OSError if it is no HDF5.
    """
    h5py = tool("h5py", "h5py")
    with unfilled():
        net = HED()
    with h5py.File(path, "r") as file:
        state = {name: _weights(file, name) for name in net.state_dict()}
    try:
        net.load_state_dict(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return net.eval()


def _weights(file: Mapping, name: str) -> np.ndarray:
    """block1.conv2d.weight is /block1/layers/conv2d/vars/0 there, in the order (kh, kw, in, out)."""
    *layer, kind = name.split(".")
    place = "/layers/".join(layer) + f"/vars/{('weight', 'bias').index(kind)}"
    if place not in file or not hasattr(file[place], "shape"):
        raise CheckpointError(f"{file.filename}: no array {place}")
    array = file[place][()]
    return fastconv.from_hwio(array) if kind == "weight" else array
