"""Run an ONNX model on an array or a picture and write its outputs.

INPUT is an .npy file, or a picture (with Pillow): a .png or .jpg becomes (1, channels, height, width),
float32 from 0 to 1. The model's first output is written as OUTPUT.npy, others as OUTPUT.NAME.npy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import fastconv.onnx as ort
from fastconv._cli import CommandError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("input", type=Path, nargs="+", metavar="INPUT", help="in the model's order")
    parser.add_argument("--output", type=Path, help="default: MODEL.npy in this directory")


def run(options: argparse.Namespace) -> None:
    output = options.output or Path(options.model.stem)
    try:
        session = ort.InferenceSession(options.model)
        entries = session.get_inputs()
        if len(entries) != len(options.input):
            raise CommandError(f"{options.model} takes {len(entries)} inputs: {entries}")
        feed = {
            entry.name: _array(path) for entry, path in zip(entries, options.input, strict=True)
        }
        start = time.perf_counter()
        results = session.run(None, feed)
        seconds = time.perf_counter() - start
    except (ValueError, TypeError) as error:
        raise CommandError(str(error)) from None
    print(f"{options.model.name}: {seconds * 1000:.1f} ms, planning included")
    for i, (entry, y) in enumerate(zip(session.get_outputs(), results, strict=True)):
        path = output.with_suffix(".npy" if i == 0 else f".{Path(entry.name).name}.npy")
        np.save(path, y)
        print(f"{entry.name} {y.dtype} {'x'.join(map(str, y.shape))} -> {path}")


def _array(path: Path) -> np.ndarray:
    if path.suffix.lower() not in PICTURES:
        return np.load(path, allow_pickle=False)
    try:
        from PIL import Image
    except ImportError:
        raise CommandError("pictures are read with Pillow: pip install pillow") from None
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
