"""Read a photographed page with PP-OCR: find its lines, turn them upright, read them.

Three networks, straight from their ONNX files. The first says of every pixel how likely it belongs to
text; along each connected piece of them a strip is cut, which bends with the page. The second looks at
each strip and says whether it is upside down. The third gives a character, a space or nothing for every
few columns of a strip; what repeats stands for one character.

Models: the Python package rapidocr (Apache-2.0), PP-OCRv6 and (direction) PP-OCRv2 by the authors of PaddleOCR
(Apache-2.0). Liao, Wan, Yao, Chen and Bai, "Real-Time Scene Text Detection with Differentiable
Binarization" (2020); Graves, Fernandez, Gomez and Schmidhuber, "Connectionist Temporal Classification"
(2006). The page: scikit-image's data.page().
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastconv
import fastconv.onnx as ort
from fastconv._cli import CommandError, positive
from fastconv.demos._packages import folder_of, tool
from fastconv.demos._pictures import Sheet, add_output, read_photo
from fastconv.demos._run import progress, timed

PAGE = "page"  # scikit-image's
FILES = (
    "PP-OCRv6_det_small.onnx",
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "PP-OCRv6_rec_small.onnx",
)
LONGEST = 960  # pixels of the longer side that detection sees: with more the page is read no better
MULTIPLE = 32  # of the sizes that detection takes
LIKELY, SURE = 0.3, 0.5  # from where on a pixel is text, and the mean over a line's pixels
GROWTH = 1.8  # detection sees lines thinner than they are, by area / perimeter times this: less cuts underscores off
THINNEST = 3  # pixels: what is thinner is no line
BENDS_FROM = 4  # times as wide as high: of shorter ones a parabola would see letters, not the page
KNOTS = 17  # points along a strip
HEIGHT, DIRECTION_WIDTH = 48, 192  # what the other two take
COLUMNS = 32  # widths of lines are multiples of this: fewer shapes to prepare for
UPSIDE_DOWN = 0.5  # from where on a line is turned: the mean over its windows
GAP, WIDTH, CAPTION = 16, 768, 28  # of the sheet, in pixels


class Networks(NamedTuple):
    """The three sessions, and what the columns of the last one's output stand for."""

    detection: ort.InferenceSession
    direction: ort.InferenceSession
    recognition: ort.InferenceSession
    characters: list[str]


class Line(NamedTuple):
    """A line of text: where it lies, and what it says."""

    strip: Strip
    text: str
    confidence: float


def load() -> Networks:
    """The models of the package. CommandError if it is not there or has no such files."""
    folder = folder_of("rapidocr", "pip install --no-deps rapidocr") / "models"
    try:
        sessions = [ort.InferenceSession(folder / name) for name in FILES]
    except ort.ModelError as error:
        raise CommandError(f"{folder}: {error}") from None
    listed = sessions[2].get_modelmeta().custom_metadata_map["character"].split("\n")
    return Networks(*sessions, ["", *listed, " "])  # the first is the blank of CTC


# pixels that are text, and the strips of the photograph along them -------------------------------


class Strip(NamedTuple):
    """Where a line of text lies: along `middle` (KNOTS, 2), x, y from its beginning to its end; `half` (2,) reaches
    from the middle to the lower edge, as much to the upper one. Lines of an open book bend."""

    middle: np.ndarray
    half: np.ndarray

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return np.hypot(*(self.middle[-1] - self.middle[0])), 2 * np.hypot(*self.half)

    @property
    def outline(self) -> np.ndarray:
        """(2 * KNOTS, 2): the upper edge, then the lower one back."""
        return np.concatenate([self.middle - self.half, (self.middle + self.half)[::-1]])

    def scaled(self, scale: np.ndarray | float) -> Strip:
        return Strip(self.middle * scale, self.half * scale)


def detection_input(photo: np.ndarray, longest: int) -> np.ndarray:
    """(3, H, W) red, green, blue from 0 to 1 -> (1, 3, h, w) as detection takes it."""
    scale = longest / max(photo.shape[1:])
    size = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in photo.shape[1:]]
    return _centred(_resized(photo, (size[0], size[1])))[None]


def strips_of(likely: np.ndarray) -> list[Strip]:
    """(H, W), how likely each pixel is text -> the strips of all lines, in reading order."""
    ndimage = tool("scipy.ndimage", "scipy")
    labels, _ = ndimage.label(likely > LIKELY, np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        piece = labels[rows, columns] == number
        if min(piece.shape) < THINNEST or likely[rows, columns][piece].mean() < SURE:
            continue
        y, x = np.nonzero(piece)
        found.append(strip_along(np.stack([x + columns.start, y + rows.start], 1) + 0.5))
    return in_reading_order(found)


def strip_along(points: np.ndarray) -> Strip:
    """(N, 2), the pixels of a line -> its strip: a parabola through them, and GROWTH around."""
    corners = smallest_rectangle(points)
    sides = corners[1] - corners[0], corners[3] - corners[0]
    width, height = (max(np.hypot(*side), 1) for side in sides)
    along, down = sides[0] / width, sides[1] / height
    u, v = (points - corners[0]) @ along, (points - corners[0]) @ down
    bend = np.polynomial.Polynomial.fit(u, v, 2 if width > BENDS_FROM * height else 0)
    low, high = np.quantile(v - bend(u), (0.01, 0.99))  # an ascender reaches further
    grown = GROWTH * width * (high - low) / (2 * (width + high - low))
    places = np.linspace(-grown, width + grown, KNOTS)[:, None]
    middle = corners[0] + places * along + (bend(places) + (low + high) / 2) * down
    return Strip(middle, ((high - low) / 2 + grown) * down)


def smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """(N, 2) -> the corners (4, 2) of the rectangle of least area around them, clockwise.

    One of its sides lies on a side of the points' convex hull: all of those are tried. The first side is
    the one that is read along: the longer one, from left to right.
    """
    hull = points[
        tool("scipy.spatial", "scipy").ConvexHull(points, qhull_options="QJ").vertices
    ]  # QJ: a diagonal is a hull too
    sides = np.roll(hull, -1, 0) - hull
    along = sides / np.hypot(*sides.T)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    places = np.stack([hull @ along.T, hull @ across.T])  # (2, points, sides)
    low, high = places.min(1), places.max(1)
    best = np.prod(high - low, axis=0).argmin()
    (u0, v0), (u1, v1) = low[:, best], high[:, best]
    corners = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)]) @ [along[best], across[best]]
    first = int(v1 - v0 > u1 - u0)
    leftwards = corners[first][0] > corners[(first + 1) % 4][0]
    return np.roll(corners, -(first + 2 * leftwards), 0)


def in_reading_order(strips: list[Strip]) -> list[Strip]:
    """From top to bottom; those in one row, middles less than half a height apart, from left to right."""
    rows: list[list[Strip]] = []
    for strip in sorted(strips, key=_level):
        before = rows[-1][-1] if rows else None
        if before and _level(strip) - _level(before) < min(strip.size[1], before.size[1]) / 2:
            rows[-1].append(strip)
        else:
            rows.append([strip])
    return [strip for row in rows for strip in sorted(row, key=lambda each: each.middle[0, 0])]


def _level(strip: Strip) -> float:
    return strip.middle[:, 1].mean()


# lines as pictures, and what they say ------------------------------------------------------------


def cut(photo: np.ndarray, strip: Strip) -> np.ndarray:
    """(3, H, W) -> (3, HEIGHT, w): what is inside of a strip, as if it were straight and level."""
    columns, rows = (max(1, round(side)) for side in strip.size)
    at = (np.arange(columns) + 0.5) / columns * (KNOTS - 1)
    middle = np.stack([np.interp(at, np.arange(KNOTS), axis) for axis in strip.middle.T], 1)
    down = (2 * np.arange(rows)[:, None, None] + 1 - rows) / rows * strip.half
    places = np.moveaxis(middle + down - 0.5, -1, 0)[::-1]  # y, x; pixels have their middles at 0.5
    sample = tool("scipy.ndimage", "scipy").map_coordinates
    piece = np.stack([sample(plane, places, order=1, mode="nearest") for plane in photo])
    return _resized(piece, (HEIGHT, max(1, round(columns * HEIGHT / rows))))


def direction_inputs(piece: np.ndarray) -> list[np.ndarray]:
    """(3, HEIGHT, w) -> evenly spaced windows (1, 3, HEIGHT, DIRECTION_WIDTH), as the second network takes them.

    A whole line squeezed into one window misleads it.
    """
    rest = max(0, piece.shape[2] - DIRECTION_WIDTH)
    starts = np.linspace(0, rest, 1 + rest // DIRECTION_WIDTH).astype(int)
    return [_fitted(piece[:, :, at : at + DIRECTION_WIDTH], DIRECTION_WIDTH)[None] for at in starts]


def upright(networks: Networks, pieces: list[np.ndarray]) -> list[np.ndarray]:
    """The same pictures, those turned that the second network thinks are upside down."""
    return [piece[:, ::-1, ::-1] if _turned(networks, piece) else piece for piece in pieces]


def _turned(networks: Networks, piece: np.ndarray) -> bool:
    likely = [networks.direction(window)[0, 1] for window in direction_inputs(piece)]
    return np.mean(likely) > UPSIDE_DOWN


def recognition_input(piece: np.ndarray) -> np.ndarray:
    """(3, HEIGHT, w) -> (1, 3, HEIGHT, W) as recognition takes it."""
    return _fitted(piece, -(-piece.shape[2] // COLUMNS) * COLUMNS)[None]


def read(networks: Networks, piece: np.ndarray) -> tuple[str, float]:
    """What a line says, and how sure that is."""
    return decoded(networks.recognition(recognition_input(piece))[0], networks.characters)


def decoded(likely: np.ndarray, characters: list[str]) -> tuple[str, float]:
    """(steps, characters) -> the likeliest text, and the mean likelihood of its characters.

    A character that repeats is one; two in a row are written with a blank between them.
    """
    best = likely.argmax(1)
    begins = (best != 0) & (best != np.concatenate([[0], best[:-1]]))
    text = "".join(characters[i] for i in best[begins])
    return text, float(likely.max(1)[begins].mean()) if text else 0.0


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) float32 in another size; what becomes smaller is first averaged, so that nothing is skipped."""
    image = np.ascontiguousarray(image, np.float32)[None]
    smaller = tuple(min(old, new) for old, new in zip(image.shape[2:], size, strict=True))
    image = fastconv.interpolate(image, size=smaller, mode="area")
    return fastconv.interpolate(image, size=size, mode="bilinear")[0]


def _centred(image: np.ndarray) -> np.ndarray:
    """Red, green, blue from 0 to 1 -> blue, green, red from -1 to 1."""
    return np.ascontiguousarray(2 * image[::-1] - 1)


def _fitted(piece: np.ndarray, width: int) -> np.ndarray:
    """(3, HEIGHT, w) -> (3, HEIGHT, width) for a network, with zeros on its right."""
    return np.pad(_centred(piece), ((0, 0), (0, 0), (0, width - piece.shape[2])))


# the demo ----------------------------------------------------------------------------------------


def find(networks: Networks, photo: np.ndarray, longest: int) -> list[Strip]:
    """The strips of the lines of (3, H, W), in its pixels."""
    x = detection_input(photo, longest)
    likely = timed(f"detection on {_by(x)}", None, lambda: networks.detection(x))[0, 0]
    scale = np.array(photo.shape[:0:-1]) / likely.shape[::-1]
    return [strip.scaled(scale) for strip in strips_of(likely)]


def lines_of(networks: Networks, photo: np.ndarray, longest: int = LONGEST) -> list[Line]:
    """The lines of a photograph (3, H, W), 0 to 1, in reading order."""
    strips = find(networks, photo, longest)
    if not strips:
        return []
    pieces = [cut(photo, strip) for strip in strips]
    count = f"{len(pieces)} line{'s' * (len(pieces) > 1)}"
    turned = timed(f"direction of {count}", None, lambda: upright(networks, pieces))

    def texts() -> list[tuple[str, float]]:
        return [read(networks, piece) for piece in progress(turned, "lines")]

    said = timed(f"recognition of {count}", None, texts)
    return [Line(strip, *text) for strip, text in zip(strips, said, strict=True)]


def _by(x: np.ndarray) -> str:
    return f"{x.shape[3]}×{x.shape[2]}"


def read_page() -> np.ndarray:
    """scikit-image's page, (3, 191, 384)."""
    page = tool("skimage.data", "scikit-image").page()
    return np.repeat(page[None], 3, 0).astype(np.float32) / 255


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--photo", default=PAGE, help="a file; default: the page of a book in scikit-image"
    )
    parser.add_argument(
        "--longest", type=positive, default=LONGEST, metavar="PIXELS",
        help=f"the longer side is scaled to this for finding text; default {LONGEST}",
    )  # fmt: skip
    add_output(parser)


def run(options: argparse.Namespace) -> None:
    networks = load()
    photo = read_page() if options.photo == PAGE else read_photo(options.photo)
    lines = lines_of(networks, photo, options.longest)
    print(f"{len(lines)} lines: how sure the network is, the middle of each line, its text")
    for line in lines:
        x, y = line.strip.middle[KNOTS // 2]
        print(f"  {100 * line.confidence:3.0f} %  {x:5.0f} {y:5.0f}  {line.text}")
    _draw(options.output / "ocr.png", photo, lines)


def _draw(path: Path, photo: np.ndarray, lines: list[Line]) -> None:
    """The photograph with the lines' rectangles, and beside it their text where they are."""
    scale = WIDTH / photo.shape[2]
    height = max(1, round(photo.shape[1] * scale))
    sheet = Sheet(GAP + 2 * (WIDTH + GAP), CAPTION + height + GAP)
    sheet.write(GAP, 6, "the photograph")
    sheet.put(GAP, CAPTION, _resized(photo, (height, WIDTH)), frame=True)
    sheet.write(GAP + WIDTH + GAP, 6, "what they say")
    sheet.put(GAP + WIDTH + GAP, CAPTION, np.ones((height, WIDTH)), frame=True)
    for line in lines:
        strip = line.strip.scaled(scale)
        sheet.outline(strip.outline + (GAP, CAPTION))
        aside = np.array((GAP + WIDTH + GAP, CAPTION))
        sheet.fit(*(strip.middle[[0, -1]] + aside), strip.size[1], line.text)
    sheet.save(path)
