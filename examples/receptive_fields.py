"""What the layers of a network see of a photograph, counted, checked, and drawn.

    python examples/receptive_fields.py vgg16 --photo coffee --out receptive_fields.png

Above: the box of pixels that one element in the middle of each layer's output depends on. It is the
prediction of `fastconv.receptive_field`, and is checked: a NaN at a pixel must turn exactly those
outputs into NaN that see it. Below: how much each pixel counts in stacks of 3x3 means. A box says
what may count, not how much: the weight piles up in the middle, and its spread grows with the square
root of the depth (Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", 2016).

Needs scikit-image, with which Pillow comes: pip install 'fastconv[demo]'.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

import fastconv
from fastconv import models, nn

NETWORKS = ("lenet5", "alexnet", "vgg11", "vgg16", "vgg19")  # layers in a row, named features.0 ...
SIDE, GAP, TABLE = 560, 16, 290  # of the sheet, in pixels
RESPONSE, ZOOM, CAPTION = 25, 5, 40  # pixels of a stack's response, how large they are drawn
PAPER, INK = (250, 249, 246), (60, 58, 54)
COLOURS = ((255, 214, 64), (255, 150, 50), (240, 80, 60), (200, 60, 140), (110, 80, 200))
STACKS = {
    "one 3x3": [1],
    "two 3x3": [1] * 2,
    "five 3x3": [1] * 5,
    "ten 3x3": [1] * 10,
    "dilation 1, 2, 4": [1, 2, 4],
    "dilation 2, 2, 2": [2, 2, 2],
}


def input_shape(net: nn.Module) -> tuple[int, ...]:
    _, weight = next(net.named_parameters())
    return (1, weight.shape[1], *net.image_size)


def check_with_nans(net: nn.Module, fields: dict, shape: tuple[int, ...], pixels: int) -> None:
    """A NaN at random pixels must mark what the fields predict, layer by layer."""
    rng = np.random.default_rng(0)
    for pixel in zip(*(rng.integers(0, size, pixels) for size in shape[2:]), strict=True):
        x = rng.random(shape, np.float32)
        x[..., pixel[0], pixel[1]] = np.nan
        for name, layer in net.features.named_children():
            x = layer(x)
            predicted = fields[f"features.{name}"].outputs(pixel)
            if not np.array_equal(np.isnan(x[0]).any(axis=0), predicted):
                raise SystemExit(f"features.{name}: a NaN at {pixel} marks other outputs")
    print(
        f"checked with a NaN at {pixels} pixels: each marks the outputs that see it, and no other"
    )


def stack(dilations: list[int]) -> nn.Module:
    """3x3 means one after the other."""
    options = dict(bias=False, dtype=np.float64)
    layers = [nn.Conv2d(1, 1, 3, padding=d, dilation=d, **options) for d in dilations]
    for layer in layers:
        layer.weight = np.full((1, 1, 3, 3), 1 / 9)
    return nn.Sequential(*layers)


def response(dilations: list[int]) -> tuple[np.ndarray, float]:
    """(RESPONSE, RESPONSE) weights of the pixels in the output in the middle, and the box's size.

    Means are symmetrical: what a pixel contributes is what an impulse in the middle becomes. SystemExit
    if the box is not as large as predicted, or the variance not the sum of those of the means.
    """
    net = stack(dilations)
    impulse = np.zeros((1, 1, RESPONSE, RESPONSE))
    impulse[..., RESPONSE // 2, RESPONSE // 2] = 1
    weights = net(impulse)[0, 0]
    across = weights.sum(0)
    places = np.arange(RESPONSE) - RESPONSE // 2
    seen = places[across != 0]
    size = fastconv.receptive_field(net, impulse.shape).size
    if np.ptp(seen) + 1 != size:
        raise SystemExit(f"dilations {dilations}: {np.ptp(seen) + 1} pixels count, not {size}")
    variance = sum(2 / 3 * d * d for d in dilations)
    if not np.isclose(across @ places**2, variance, rtol=1e-12):
        raise SystemExit(f"dilations {dilations}: variance {across @ places**2}, not {variance}")
    return weights, size


def inner_box(weights: np.ndarray, share: float = 0.9) -> int:
    """The side of the smallest square in the middle that holds a share of the weight."""
    middle = len(weights) // 2
    for reach in range(middle + 1):
        inside = slice(middle - reach, middle + reach + 1)
        if weights[inside, inside].sum() >= share:
            break
    return 2 * reach + 1


def photograph(name: str) -> Image.Image:
    """The middle square of a photograph, SIDE by SIDE."""
    photo = Image.fromarray(getattr(skimage.data, name)()[..., :3])
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


class Sheet:
    """Above a photograph with boxes and a table, below a row of responses."""

    def __init__(self, responses: int):
        self.step = RESPONSE * ZOOM + GAP
        width = max(GAP + SIDE + GAP + TABLE, GAP + responses * self.step)
        size = width, GAP + SIDE + GAP + RESPONSE * ZOOM + CAPTION
        self.page = Image.new("RGB", size, PAPER)
        self.draw = ImageDraw.Draw(self.page)

    def write(self, left: int, top: int, words: str, colour=INK, size: int = 15):
        self.draw.text((left, top), words, fill=colour, font=ImageFont.load_default(size=size))

    def put_boxes(self, photo: Image.Image, image: tuple[int, int], boxes: dict[str, tuple]):
        """boxes: (first, last) pixel of rows and of columns of the network's input, by name."""
        layer = photo.copy()
        draw, scale = ImageDraw.Draw(layer), SIDE / image[0]
        for colour, ((top, bottom), (left, right)) in zip(COLOURS, boxes.values(), strict=False):
            corners = [left * scale, top * scale, (right + 1) * scale, (bottom + 1) * scale]
            draw.rectangle([min(max(c, 1), SIDE - 2) for c in corners], outline=colour, width=3)
        self.page.paste(layer, (GAP, GAP))

    def put_table(self, rows: list[tuple[str, str, str, str]], coloured: dict[str, tuple]):
        """Rows of words; the layers with boxes have a square of their colour."""
        height = min(22, (SIDE - 8) // len(rows))
        for place, (name, *words) in enumerate(rows):
            top = GAP + place * height
            if name in coloured:
                left = 2 * GAP + SIDE
                self.draw.rectangle((left, top + 3, left + 9, top + 12), fill=coloured[name])
            for column, word in zip((18, 62, 160, 220), (name.split(".")[-1], *words), strict=True):
                self.write(2 * GAP + SIDE + column, top, word, size=min(14, height - 3))

    def put_response(self, place: int, weights: np.ndarray, words: list[str]):
        left, top = GAP + place * self.step, GAP + SIDE + GAP
        shade = (weights / weights.max()) ** 0.5  # so that small ones can be seen
        colours = np.array(PAPER) + shade[..., None] * (np.array(COLOURS[3]) - PAPER)
        picture = Image.fromarray(np.rint(colours).astype(np.uint8))
        side = RESPONSE * ZOOM
        self.page.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
        self.draw.rectangle((left - 1, top - 1, left + side, top + side), outline=(150, 146, 138))
        for line, text in enumerate(words):
            self.write(left, top + side + 3 + 17 * line, text, size=13)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", nargs="?", choices=NETWORKS, default="vgg16")
    photos = ("astronaut", "chelsea", "coffee", "rocket")
    parser.add_argument("--photo", choices=photos, default="coffee", help="of skimage.data")
    parser.add_argument("--out", type=Path, default=Path("receptive_fields.png"), help="a PNG file")
    options = parser.parse_args(arguments)

    net = getattr(models, options.network)()
    shape = input_shape(net)
    fields = fastconv.receptive_field(net, shape).layers
    layers = [f"features.{name}" for name, _ in net.features.named_children()]
    x, rows = np.zeros(shape, np.float32), [("layer", "", "sees", "stride")]
    ends = []  # layers with the last output of each size
    sizes = {}
    for name, layer in zip(layers, net.features, strict=True):
        x = layer(x)
        sizes[name] = x.shape[2:]
        field = fields[name]
        rows.append((name, type(layer).__name__, str(field.size), str(field.stride)))
        print("{:<14}{:<12} sees {:>3}, stride {:>2}".format(name, *rows[-1][1:]))
        if "Pool" in type(layer).__name__:
            ends.append(name)
    check_with_nans(net, fields, shape, pixels=3)

    ends = ends[-len(COLOURS) :]
    boxes = {name: fields[name].inputs([size // 2 for size in sizes[name]]) for name in ends}
    sheet = Sheet(len(STACKS))
    sheet.put_boxes(photograph(options.photo), shape[2:], boxes)
    sheet.put_table(rows, dict(zip(ends, COLOURS, strict=False)))
    for place, (name, dilations) in enumerate(STACKS.items()):
        weights, size = response(dilations)
        inner = inner_box(weights)
        print(f"{name:<17} sees {size:>2}, nine tenths of the weight lie within {inner}")
        sheet.put_response(place, weights, [name, f"sees {size}, 90 % in {inner}"])
    sheet.page.save(options.out)
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
