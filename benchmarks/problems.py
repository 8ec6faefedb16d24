"""Problems to measure: kernel sizes, group counts, layers of real networks. Imports NumPy alone.

A problem's name says everything needed to build it again, the values of its arrays included:

    resnet50.conv1:conv2d_ic3ih224oc64kh7sh2ph3
    label         :op    _sizes; what is left out has its default, see `Problem.parse`
"""

import csv
import dataclasses
import functools
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

SHAPES = Path(__file__).parent / "shapes"
POSITIONS = 200
DTYPES = {"f32": np.float32, "f64": np.float64}
CONVS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
POOLS = "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d".split()
GLOBAL_POOLS = ["global_avg_pool", "global_max_pool"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One convolution or pooling of a contiguous image, channels first unless `nhwc`.

    Sizes are those of the core: image id ih iw, kernel k., stride s., padding p., dilation d.;
    e. is the output padding of a transposed convolution. A 1-D problem has widths alone.
    """

    op: str
    ic: int
    iw: int
    oc: int
    kw: int
    batch: int = 1
    id: int = 1
    ih: int = 1
    kd: int = 1
    kh: int = 1
    sd: int = 1
    sh: int = 1
    sw: int = 1
    pd: int = 0
    ph: int = 0
    pw: int = 0
    dd: int = 1
    dh: int = 1
    dw: int = 1
    ed: int = 0
    eh: int = 0
    ew: int = 0
    groups: int = 1
    ceil: int = 0
    bias: int = 0
    nhwc: int = 0
    label: str = dataclasses.field(default="", compare=False)

    @classmethod
    def make(cls, op: str, label: str = "", **sizes: int) -> "Problem":
        """Widths default to heights, oc to ic, the rest as in the class."""
        if op not in OPS:
            raise ValueError(f"{op!r} is not one of {', '.join(OPS)}")
        for key, source in _SAME.items():
            sizes.setdefault(key, sizes.get(source, _DEFAULTS[source]))
        return cls(op=op, label=label, **sizes)

    @classmethod
    def parse(cls, name: str) -> "Problem":
        """The problem of a name."""
        label, _, rest = name.rpartition(":")
        op, _, text = rest.rpartition("_")
        if op not in OPS or not re.fullmatch(r"([a-z]+\d+)+", text):
            raise ValueError(f"{name!r} is not the name of a problem")
        sizes = {key: int(value) for key, value in re.findall(r"([a-z]+)(\d+)", text)}
        return cls.make(op, label, **sizes)

    def __str__(self) -> str:
        return f"{self.label}:{self.shape}" if self.label else self.shape

    @property
    def shape(self) -> str:
        """The name without its label."""
        sizes = dataclasses.asdict(self)
        implied = {key: sizes[source] for key, source in _SAME.items()}
        expected = {key: implied.get(key, value) for key, value in _DEFAULTS.items()}
        return f"{self.op}_" + "".join(
            f"{key}{sizes[key]}" for key in _ORDER if sizes[key] != expected[key]
        )

    @property
    def is_conv(self) -> bool:
        return self.op in CONVS

    @property
    def transposed(self) -> bool:
        return "transpose" in self.op

    @property
    def axes(self) -> int:
        """How many axes the image has."""
        return 2 if self.op in GLOBAL_POOLS else int(self.op[-2])

    @property
    def plain(self) -> bool:
        """A convolution or pooling of two axes, channels first, with nothing unusual to it."""
        ordinary = self.op in ("conv2d", "max_pool2d", "avg_pool2d")
        return ordinary and self.dilation == (1, 1) and not self.nhwc

    def _each(self, what: str) -> tuple[int, ...]:
        return tuple(getattr(self, what + axis) for axis in "dhw"[-self.axes :])

    image = property(lambda self: self._each("i"))
    kernel = property(lambda self: self._each("k"))
    stride = property(lambda self: self._each("s"))
    padding = property(lambda self: self._each("p"))
    dilation = property(lambda self: self._each("d"))
    output_padding = property(lambda self: self._each("e"))

    @property
    def arguments(self) -> tuple:
        """What follows the arrays in a call of the op: the same in fastconv, reference, torch."""
        if self.transposed:
            return self.stride, self.padding, self.output_padding, self.groups, self.dilation
        if self.is_conv:
            return self.stride, self.padding, self.dilation, self.groups
        if self.op in GLOBAL_POOLS:
            return ()
        dilation = (self.dilation,) if "max" in self.op else ()
        return self.kernel, self.stride, self.padding, *dilation, bool(self.ceil)

    @property
    def terms(self) -> int:
        """How many products (or elements of a window) one output adds up, at most."""
        channels = self.ic // self.groups if self.is_conv else 1
        if not self.transposed:
            return channels * math.prod(self.kernel)
        taps = zip(self.kernel, self.stride, self.dilation, strict=True)
        return channels * math.prod(-(-k // (s // math.gcd(s, d))) for k, s, d in taps)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        first, second = (self.ic, self.oc) if self.transposed else (self.oc, self.ic)
        return first, second // self.groups, *self.kernel

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Channels first, whatever the layout."""
        return self.batch, self.oc, *map(self._output_size, "dhw"[-self.axes :])

    def _output_size(self, axis: str) -> int:
        """torch's rule: with ceil, a last window that would start in the far padding is dropped."""
        size, k, s, pad, d, extra = (getattr(self, what + axis) for what in "ikspde")
        reach = d * (k - 1) + 1
        if self.transposed:
            return (size - 1) * s - 2 * pad + reach + extra
        out = (size + 2 * pad - reach + (s - 1) * self.ceil) // s + 1
        return out - 1 if self.ceil and (out - 1) * s >= size + pad else out

    @property
    def macs(self) -> int:
        """Multiply-adds, those with padding included; of a pooling, the elements of its windows."""
        if self.transposed:
            return self.batch * math.prod(self.image) * math.prod(self.weight_shape)
        return math.prod(self.output_shape) * self.terms

    @property
    def flops(self) -> int:
        """Two operations a product; of a pooling, what windows that are doubled along each axis in
        turn need."""
        if self.is_conv:
            return 2 * self.macs
        return math.prod(self.output_shape) * sum((k - 1).bit_length() for k in self.kernel)

    def nbytes(self, dtype: str) -> int:
        """Every input read once and every output written once."""
        weights = math.prod(self.weight_shape) + self.oc * self.bias if self.is_conv else 0
        pixels = self.batch * self.ic * math.prod(self.image)
        elements = pixels + weights + math.prod(self.output_shape)
        return elements * np.dtype(DTYPES[dtype]).itemsize


OPS = [*CONVS, *POOLS, *GLOBAL_POOLS]
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Problem)}
_SAME = {"iw": "ih", "oc": "ic", "kw": "kh", "sw": "sh", "pw": "ph", "dw": "dh", "ew": "eh"}
_ORDER = (
    "batch ic id ih iw oc kd kh kw sd sh sw pd ph pw dd dh dw ed eh ew groups ceil bias nhwc"
).split()


@functools.lru_cache(maxsize=4)
def arrays(problem: Problem, dtype: str) -> tuple[np.ndarray, ...]:
    """x, weight and bias (or None) of a convolution, x of a pooling: seeded by the name."""
    rng = np.random.default_rng(zlib.crc32(f"{problem.shape}-{dtype}".encode()))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, DTYPES[dtype])

    p = problem
    x = normal(p.batch, p.ic, *p.image)
    if p.nhwc:
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    if not p.is_conv:
        return (x,)
    return x, normal(*p.weight_shape), normal(p.oc) if p.bias else None


@functools.lru_cache(maxsize=4)
def positions(shape: tuple[int, ...]) -> np.ndarray:
    """Seeded positions in an array of this shape, (200, ndim): corners, then edges, then any."""
    last = np.array(shape) - 1
    corners = np.array(list(np.ndindex((2,) * len(shape)))) * last
    rng = np.random.default_rng(zlib.crc32(str(shape).encode()))
    places = rng.integers(0, shape, (POSITIONS - len(corners), len(shape)))
    edges = np.arange(len(places) // 2)
    axes = rng.integers(min(2, len(shape) - 1), len(shape), len(edges))
    places[edges, axes] = last[axes] * rng.integers(0, 2, len(edges))
    return np.concatenate([corners, places])


def kernel_sizes() -> list[Problem]:
    """Every odd kernel size at 64 channels of 56x56."""
    return [Problem.parse(f"conv2d_ic64ih56kh{k}ph{k // 2}") for k in (1, 3, 5, 7, 9, 11)]


def group_counts() -> list[Problem]:
    """Every power of two that divides 64 channels; 64 groups are a depthwise convolution."""
    return [Problem.parse(f"conv2d_ic64ih56kh3ph1groups{2**i}") for i in range(7)]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of a CSV file: a problem, how many layers share it, whether the quick run has it."""

    problem: Problem
    count: int = 1
    quick: bool = False


def layers(*, full: bool, accept: Callable[[Problem], bool]) -> list[Problem]:
    """Layers of the networks: the rows marked quick, or all."""
    return [
        layer.problem
        for layer in itertools.chain.from_iterable(map(read, _files("networks").values()))
        if (full or layer.quick) and accept(layer.problem)
    ]


def set_names() -> list[str]:
    """What `layer_set` knows: the layers of all networks, the classes, single networks."""
    return [*all_sets(), *_files("networks")]


def all_sets() -> list[str]:
    """The layers of all networks as one set, and every class."""
    return ["layers", *_files("classes")]


def layer_set(name: str) -> list[Layer]:
    """The distinct problems of a set, with how many layers share each.

    A network's poolings are in the class of that name and not here, as figures of the two do not
    mix.
    """
    networks = _files("networks")
    if name == "layers":
        rows = itertools.chain.from_iterable(map(read, networks.values()))
    elif name in networks:
        rows = read(networks[name])
    else:
        return distinct(read(_files("classes")[name]))
    return distinct(row for row in rows if row.problem.is_conv)


def distinct(rows: Iterable[Layer]) -> list[Layer]:
    """Equal problems become one; their counts add up."""
    seen: dict[Problem, Layer] = {}
    for row in rows:
        before = seen.get(row.problem)
        count = row.count + (before.count if before else 0)
        seen[row.problem] = dataclasses.replace(before or row, count=count)
    return list(seen.values())


def draw(rows: list[Layer], number: int, seed: int) -> list[Layer]:
    """A random sample without repetition, weighted by the counts, in the order of the rows."""
    if number >= len(rows):
        return rows
    weights = np.array([row.count for row in rows], float)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(rows), number, replace=False, p=weights / weights.sum())
    return [rows[i] for i in sorted(chosen)]


def read(path: Path) -> list[Layer]:
    """The rows of a CSV file; README.md beside this file lists the columns."""
    with path.open(newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        return [_layer(path.stem, row) for row in csv.DictReader(lines)]


def _layer(stem: str, row: dict[str, str]) -> Layer:
    cells = {ALIASES.get(key, key): value for key, value in row.items() if value}
    label = f"{stem}.{cells.pop('layer')}" if "layer" in cells else ""
    op, count = cells.pop("op", "conv2d"), int(cells.pop("count", 1))
    quick = cells.pop("quick", "0") == "1"
    sizes = {
        key: _NUMBERS[value] if value in _NUMBERS else int(value) for key, value in cells.items()
    }
    for other, same in FAR_PADDINGS.items():
        if sizes.pop(other, sizes.get(same, 0)) != sizes.get(same, 0):
            raise ValueError(f"{label}: padding that differs from side to side is not supported")
    wanted = [sizes.pop("oh", None), sizes.pop("ow", None)]
    problem = Problem.make(op, label, **sizes)
    if None not in wanted:
        problem = _padded_beforehand(problem, *wanted)
    return Layer(problem, count, quick)


def _padded_beforehand(p: Problem, oh: int, ow: int) -> Problem:
    """The image larger, where the result is: "same" padding of a stride is not even, so some
    models add it to the image before they convolve."""
    _, _, lower, left = p.output_shape
    return dataclasses.replace(p, ih=p.ih + (oh - lower) * p.sh, iw=p.iw + (ow - left) * p.sw)


def _files(kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((SHAPES / kind).glob("*.csv"))}


# Other names of columns, as lists of models' layers use them.
ALIASES = {
    "c": "ic", "h": "ih", "w": "iw", "pad_t": "ph", "pad_l": "pw", "n_uses": "count", "example": "layer",
}  # fmt: skip
FAR_PADDINGS = {"pad_b": "ph", "pad_r": "pw"}
_NUMBERS = {"True": 1, "False": 0}
