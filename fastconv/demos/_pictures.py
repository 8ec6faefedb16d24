"""Photographs in, PNG files out: arrays (C, H, W), 0 to 1, one channel for grey or three for colour."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fastconv._cli import CommandError
from fastconv.demos._packages import tool

PAPER, INK, PALE = (250, 249, 246), (60, 58, 54), (150, 146, 138)
LINE = (178, 34, 26)
WARM, COLD = np.array([0.70, 0.13, 0.10]), np.array([0.08, 0.27, 0.55])
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # colour photographs in scikit-image, CC0


def add_photo(parser: argparse.ArgumentParser, default: str) -> None:
    """Gives a demo the option --photo."""
    parser.add_argument(
        "--photo",
        default=default,
        metavar="PHOTO",
        help=f"one of scikit-image's ({', '.join(PHOTOS)}) or a file; default {default}",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Gives a demo the option --output, a folder that is there when the demo runs."""
    parser.add_argument(
        "--output", type=_folder, default=".", metavar="FOLDER", help="where the PNG files go"
    )


def _folder(text: str) -> Path:
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return folder


def read_photo(photo: str) -> np.ndarray:
    """(3, H, W) float32 of a photograph's name, or of a file that Pillow reads.

    CommandError if there is no such thing, or no Pillow or scikit-image.
    """
    if photo in PHOTOS:
        pixels = getattr(tool("skimage.data", "scikit-image"), photo)()
    elif not Path(photo).is_file():
        raise CommandError(f"--photo {photo}: neither a file nor one of {', '.join(PHOTOS)}")
    else:
        images, upright = tool("PIL.Image", "pillow"), tool("PIL.ImageOps", "pillow").exif_transpose
        try:
            with images.open(photo) as image:
                pixels = np.asarray(upright(image).convert("RGB"))
        except images.DecompressionBombError as error:
            raise CommandError(f"--photo {photo}: {error}") from None
    return np.ascontiguousarray(pixels[..., :3].transpose(2, 0, 1), np.float32) / 255


def _picture(image: np.ndarray):
    """A Pillow image of (C, H, W) or (H, W), clipped to 0 to 1."""
    colours = np.broadcast_to(np.clip(image, 0, 1), (3, *image.shape[-2:])).transpose(1, 2, 0)
    return tool("PIL.Image", "pillow").fromarray((255 * colours + 0.5).astype(np.uint8))


def save(path: Path, image: np.ndarray) -> None:
    """Writes (C, H, W) or (H, W) as a PNG file, and says so."""
    _save(path, _picture(image))


def _save(path: Path, picture) -> None:
    picture.save(path)
    print(f"drawn in {path} ({picture.width}×{picture.height})")


def signed(maps: np.ndarray) -> np.ndarray:
    """(C, H, W) of any values as colours (C, 3, H, W): white for 0, warm above it, cold below.

    The colours are strongest at the largest magnitude of all maps.
    """
    level = (maps / max(np.abs(maps).max(), np.finfo(np.float32).tiny))[:, None]
    end = np.where(level > 0, WARM[:, None, None], COLD[:, None, None])
    return 1 - np.abs(level) * (1 - end)


class Sheet:
    """A page on which pictures and words are put, by the pixel from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        draw, self._font = tool("PIL.ImageDraw", "pillow"), tool("PIL.ImageFont", "pillow")
        self._page = tool("PIL.Image", "pillow").new("RGB", (width, height), PAPER)
        self._draw = draw.Draw(self._page)

    def put(
        self, left: int, top: int, image: np.ndarray, zoom: int = 1, frame: bool = False
    ) -> None:
        """(C, H, W) or (H, W), every pixel as a square of zoom by zoom; frame: a line around it."""
        image = np.repeat(np.repeat(image, zoom, -1), zoom, -2)
        height, width = image.shape[-2:]
        self._page.paste(_picture(image), (left, top))
        if frame:
            self._draw.rectangle((left - 1, top - 1, left + width, top + height), outline=PALE)

    def write(self, left: int, top: int, words: str, size: int = 15, centred: bool = False) -> None:
        """Words from (left, top) on; centred: with their middle at left."""
        font = self._font.load_default(size=size)
        self._draw.text((left, top), words, fill=INK, font=font, anchor="ma" if centred else "la")

    def fit(self, start: np.ndarray, end: np.ndarray, height: float, words: str) -> None:
        """Words on a level line from x, y of start, as large as fits between it and end, and into height."""
        length = self._font.load_default(size=100).getlength(words) / 100
        size = min(0.7 * height, (end[0] - start[0]) / max(length, 0.01))
        font = self._font.load_default(size=max(size, 6))
        self._draw.text((start[0], (start + end)[1] / 2), words, fill=INK, font=font, anchor="lm")

    def outline(self, corners: np.ndarray) -> None:
        """A closed line through the corners (N, 2)."""
        self._draw.polygon([tuple(corner) for corner in corners], outline=LINE, width=2)

    def save(self, path: Path) -> None:
        _save(path, self._page)
