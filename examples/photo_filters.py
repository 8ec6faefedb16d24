"""A photograph through a bank of filters, a pyramid and two poolings, checked against SciPy.

    python examples/photo_filters.py --photo astronaut --out photo_filters.png

Needs scikit-image (for the photograph, and Pillow comes with it) and SciPy:
pip install 'fastconv[test]'. Every result is compared with scipy.ndimage in float64 and may differ
by what rounding explains, no more; the program ends with an error otherwise.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import fastconv

SIDE = 512  # of the photograph
TILE, GAP, CAPTION = 256, 16, 30  # of the sheet, in pixels
PAPER, INK = (250, 249, 246), (60, 58, 54)
RADIUS = 5  # of the filters
ANGLES = (0, 45, 90, 135)
BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16  # Burt and Adelson, The Laplacian Pyramid (1983), a = 3/8


def filter_bank(dtype) -> tuple[list[str], np.ndarray]:
    """Names and weights (9, 1, 11, 11): a Gaussian, and what is made of it and its derivatives."""
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    squared = x * x + y * y

    def gauss(sigma):
        g = np.exp(-squared / (2 * sigma**2))
        return g / g.sum()

    def flat(weights):  # no answer to an even surface
        return weights - weights.mean()

    point = (squared == 0).astype(float)
    angles = [(angle, np.deg2rad(angle)) for angle in ANGLES]
    bank = {
        "blur": gauss(2.2),
        "sharpen": 3 * point - 2 * gauss(1.2),
        "emboss": point + 4 * gauss(1.2) * (x + y),
        "Laplacian of Gaussian": flat(gauss(1.6) * (squared / (2 * 1.6**2) - 1)),
        **{f"slope, {a}°": gauss(1.6) * (x * np.cos(t) + y * np.sin(t)) for a, t in angles},
        "ripple (Gabor)": flat(gauss(2.2) * np.cos(2 * np.pi * (x + y) / 9)),
    }
    weights = np.stack(list(bank.values()))[:, None].astype(dtype)
    weights[np.abs(weights) < 1e-9] = 0  # scipy.ndimage leaves out the tiniest, such as cos(90°)
    return list(bank), weights


def square_photo(name: str, dtype) -> np.ndarray:
    """The middle square of a photograph as (1, 3, SIDE, SIDE), 0 to 1."""
    photo = getattr(skimage.data, name)()
    if photo.ndim == 2:
        photo = np.stack([photo] * 3, axis=-1)
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    middle = photo[top : top + side, left : left + side, :3].transpose(2, 0, 1)[None]
    return fastconv.interpolate(middle.astype(dtype) / 255, size=(SIDE, SIDE), mode="bilinear")


def filtered(x: np.ndarray, weights: np.ndarray, stride: int = 1) -> np.ndarray:
    """Every channel through its own filters, the image mirrored at its border."""
    radius = weights.shape[-1] // 2
    mirrored = fastconv.pad(x, (radius,) * 4, mode="reflect")
    return fastconv.conv2d(mirrored, weights, stride=stride, groups=x.shape[1])


def check(what: str, ours: np.ndarray, theirs: np.ndarray, sum_of_sizes: np.ndarray, k: int):
    """|ours - theirs| <= (gamma(k + 2) + gamma64(k + 2)) * sum of |product|, and some subnormals.

    A sum of k products in arithmetic of unit roundoff u is off by at most gamma(k) times the sum of
    their sizes, gamma(k) = ku / (1 - ku) (Higham, Accuracy and Stability, 2nd ed., section 3.1);
    two more pay for the division of a mean and for the rounding of the bound itself.
    """
    n = k + 2
    roundoffs = [np.finfo(dtype).eps / 2 for dtype in (ours.dtype, np.float64)]
    factor = sum(n * u / (1 - n * u) for u in roundoffs)
    bound = factor * sum_of_sizes + n * float(np.finfo(ours.dtype).smallest_subnormal)
    used = (np.abs(ours - theirs) / bound).max()
    if not used <= 1:
        raise SystemExit(f"{what}: differs from scipy.ndimage by {used:.1f} times the bound")
    print(f"{what:<16} {str(ours.shape):<20} agrees: {100 * used:.2g} % of the bound used")


def check_filtered(what: str, x: np.ndarray, weights: np.ndarray, stride: int, ours: np.ndarray):
    """ours against scipy.ndimage.correlate in float64, filter by filter."""
    channels, each = x.shape[1], len(weights) // x.shape[1]

    def correlated(image, filters):
        return np.stack(
            [
                ndimage.correlate(image[c], filters[c * each + m, 0], mode="mirror")
                for c in range(channels)
                for m in range(each)
            ]
        )[None, :, ::stride, ::stride]

    image, filters = x[0].astype(np.float64), weights.astype(np.float64)
    sizes = correlated(np.abs(image), np.abs(filters))
    check(what, ours, correlated(image, filters), sizes, weights[0].size)


def check_pools(x: np.ndarray, size: int, means: np.ndarray, maxima: np.ndarray):
    """Windows of size x size that tile the image; origin puts their first pixel at the output's."""
    image, origin = x[0].astype(np.float64), -(size // 2)
    window = np.full((size, size), 1.0)
    tiles = (slice(None), slice(None, None, size), slice(None, None, size))
    sums = np.stack([ndimage.correlate(c, window, origin=origin) for c in image])[tiles]
    check("avg_pool2d", means, sums[None] / size**2, np.abs(sums[None]) / size**2, size**2)
    greatest = np.stack([ndimage.maximum_filter(c, size, origin=origin) for c in image])[tiles]
    if not np.array_equal(maxima[0], greatest):
        raise SystemExit("max_pool2d: differs from scipy.ndimage.maximum_filter")
    print(f"{'max_pool2d':<16} {str(maxima.shape):<20} equal")


def fitted(image: np.ndarray) -> np.ndarray:
    """(C, H, W) as (C, TILE, TILE): means of blocks, or each pixel as a block."""
    if image.shape[-1] >= TILE:
        return fastconv.avg_pool2d(image, image.shape[-1] // TILE)
    return fastconv.interpolate(image[None], size=(TILE, TILE))[0]


def signed(response: np.ndarray) -> np.ndarray:
    """(H, W) to colours (3, H, W): white at 0, warm above, cold below."""
    level = np.clip(response / np.quantile(np.abs(response), 0.995), -1, 1)
    warm, cold = np.array([0.70, 0.13, 0.10]), np.array([0.08, 0.27, 0.55])
    end = np.where(level[None] > 0, warm[:, None, None], cold[:, None, None])
    return 1 - np.abs(level) ** 0.8 * (1 - end)


def directions(slopes: np.ndarray) -> np.ndarray:
    """(4, H, W) slopes to colours: the hue says which way it is steepest, the light how steep."""
    steepest = np.abs(slopes).argmax(0)
    light = np.abs(slopes).max(0)
    light = np.clip(light / np.quantile(light, 0.98), 0, 1) ** 0.7
    hues = np.array(
        [[0.98, 0.45, 0.25], [0.98, 0.83, 0.30], [0.25, 0.75, 0.85], [0.75, 0.45, 0.95]]
    )
    return hues[steepest].transpose(2, 0, 1) * light


class Sheet:
    """A page of captioned pictures in a grid of tiles."""

    def __init__(self, columns: int, rows: int):
        size = GAP + columns * (TILE + GAP), GAP + rows * (TILE + CAPTION + GAP)
        self.page = Image.new("RGB", size, PAPER)
        self.draw = ImageDraw.Draw(self.page)
        self.font = ImageFont.load_default(size=15)

    def put(
        self,
        column: int,
        row: int,
        image: np.ndarray,
        caption: str = "",
        right: int = 0,
        drop: int = 0,
    ):
        """image (C, H, W), 0 to 1, right and drop pixels away from the tile's corner."""
        left, top = GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP)
        colours = np.broadcast_to(np.clip(image, 0, 1), (3, *image.shape[1:])).transpose(1, 2, 0)
        picture = Image.fromarray((255 * colours + 0.5).astype(np.uint8))
        self.page.paste(picture, (left + right, top + drop))
        self.draw.text((left, top + TILE + 6), caption, fill=INK, font=self.font)


def draw(path: Path, photo, names, responses, levels, means, maxima):
    sheet = Sheet(columns=5, rows=3)
    sheet.put(0, 0, fitted(photo[0]), "photograph")
    for i, name in enumerate(names):
        positive = name in ("blur", "sharpen", "emboss")
        shown = responses[0, i][None] if positive else signed(responses[0, i])
        sheet.put((i + 1) % 5, (i + 1) // 5, fitted(shown), name)
    right = 0
    for level in levels:
        caption = "" if right else "pyramid: depthwise, stride 2"
        sheet.put(0, 2, level[0], caption, right, TILE - level.shape[-1])
        right += level.shape[-1] + GAP // 2
    sheet.put(2, 2, fitted(means[0]), "mean of 16 by 16 (avg_pool2d)")
    sheet.put(3, 2, fitted(maxima[0]), "maximum of 16 by 16 (max_pool2d)")
    slopes = responses[0, [name.startswith("slope") for name in names]]
    sheet.put(4, 2, fitted(directions(slopes)), "direction of the steepest slope")
    sheet.page.save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    photos = ("astronaut", "camera", "chelsea", "coffee", "rocket")
    parser.add_argument("--photo", choices=photos, default="astronaut", help="of skimage.data")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--out", type=Path, default=Path("photo_filters.png"), help="a PNG file")
    options = parser.parse_args(arguments)

    photo = square_photo(options.photo, options.dtype)
    grey = fastconv.conv2d(photo, np.full((1, 3, 1, 1), 1 / 3, options.dtype))
    names, weights = filter_bank(options.dtype)
    responses = filtered(grey, weights)
    check_filtered("filter bank", grey, weights, 1, responses)

    small = np.outer(BINOMIAL, BINOMIAL).astype(options.dtype)
    levels = [photo]
    while levels[-1].shape[-1] > TILE // 16:
        levels.append(filtered(levels[-1], np.stack([small[None]] * 3), stride=2))
        check_filtered("pyramid", levels[-2], np.stack([small[None]] * 3), 2, levels[-1])

    means, maxima = fastconv.avg_pool2d(photo, 16), fastconv.max_pool2d(photo, 16)
    check_pools(photo, 16, means, maxima)

    draw(options.out, photo, names, responses, levels[1:], means, maxima)
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
