"""Problems to measure: kernel sizes, group counts, layers of real networks. Imports NumPy alone.

A problem's name says everything needed to build it again, the values of its arrays included:

    resnet50.conv1:conv2d_ic3ih224oc64kh7sh2ph3
    label         :op    _sizes; what is left out has its default, see `Problem.parse`
"""

import csv
import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SHAPES = Path(__file__).parent / "shapes"
POSITIONS = 200
DTYPES = {"f32": np.float32, "f64": np.float64}
OPS = ("conv2d", "max_pool2d", "avg_pool2d")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One convolution or pooling of a contiguous NCHW image."""

    op: str
    ic: int
    ih: int
    iw: int
    oc: int
    kh: int
    kw: int
    batch: int = 1
    sh: int = 1
    sw: int = 1
    ph: int = 0
    pw: int = 0
    groups: int = 1
    ceil: int = 0
    bias: int = 0
    label: str = dataclasses.field(default="", compare=False)

    @classmethod
    def parse(cls, name: str) -> "Problem":
        """The problem of a name; widths default to heights, oc to ic, the rest as in the class."""
        label, _, rest = name.rpartition(":")
        op, _, text = rest.rpartition("_")
        if op not in OPS or not re.fullmatch(r"([a-z]+\d+)+", text):
            raise ValueError(f"{name!r} is not the name of a problem")
        sizes = {key: int(value) for key, value in re.findall(r"([a-z]+)(\d+)", text)}
        for key, source in _SAME.items():
            if source in sizes:
                sizes.setdefault(key, sizes[source])
        return cls(op=op, label=label, **sizes)

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
        return self.op == "conv2d"

    @property
    def terms(self) -> int:
        """How many products (or elements of a window) one output adds up."""
        channels = self.ic // self.groups if self.is_conv else 1
        return channels * self.kh * self.kw

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        oh = _output_size(self.ih, self.kh, self.sh, self.ph, self.ceil)
        ow = _output_size(self.iw, self.kw, self.sw, self.pw, self.ceil)
        return self.batch, self.oc, oh, ow

    @property
    def flops(self) -> int:
        """A multiplication and an addition a product, those with padding included."""
        return (2 if self.is_conv else 1) * int(np.prod(self.output_shape)) * self.terms

    def nbytes(self, dtype: str) -> int:
        """Every input read once and every output written once."""
        weights = self.oc * (self.terms + self.bias) if self.is_conv else 0
        pixels = self.batch * self.ic * self.ih * self.iw
        elements = pixels + weights + int(np.prod(self.output_shape))
        return elements * np.dtype(DTYPES[dtype]).itemsize


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Problem)}
_SAME = {"iw": "ih", "oc": "ic", "kw": "kh", "sw": "sh", "pw": "ph"}
_ORDER = "batch ic ih iw oc kh kw sh sw ph pw groups ceil bias".split()


def _output_size(size: int, kernel: int, stride: int, pad: int, ceil: int) -> int:
    """torch's rule: with ceil, a last window that would start in the far padding is dropped."""
    out = (size + 2 * pad - kernel + (stride - 1) * ceil) // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= size + pad else out


@functools.lru_cache(maxsize=4)
def arrays(problem: Problem, dtype: str) -> tuple[np.ndarray, ...]:
    """x, weight and bias (or None) of a convolution, x of a pooling: seeded by the name."""
    rng = np.random.default_rng(zlib.crc32(f"{problem.shape}-{dtype}".encode()))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, DTYPES[dtype])

    p = problem
    x = normal(p.batch, p.ic, p.ih, p.iw)
    if not p.is_conv:
        return (x,)
    weight = normal(p.oc, p.ic // p.groups, p.kh, p.kw)
    return x, weight, normal(p.oc) if p.bias else None


@functools.lru_cache(maxsize=4)
def positions(shape: tuple[int, ...]) -> np.ndarray:
    """Seeded positions in an array of this shape, (200, ndim): corners, then edges, then any."""
    last = np.array(shape) - 1
    corners = np.array(list(np.ndindex((2,) * len(shape)))) * last
    rng = np.random.default_rng(zlib.crc32(str(shape).encode()))
    places = rng.integers(0, shape, (POSITIONS - len(corners), len(shape)))
    edges = np.arange(len(places) // 2)
    axes = rng.integers(len(shape) - 2, len(shape), len(edges))
    places[edges, axes] = last[axes] * rng.integers(0, 2, len(edges))
    return np.concatenate([corners, places])


def kernel_sizes() -> list[Problem]:
    """Every odd kernel size at 64 channels of 56x56."""
    return [Problem.parse(f"conv2d_ic64ih56kh{k}ph{k // 2}") for k in (1, 3, 5, 7, 9, 11)]


def group_counts() -> list[Problem]:
    """Every power of two that divides 64 channels; 64 groups are a depthwise convolution."""
    return [Problem.parse(f"conv2d_ic64ih56kh3ph1groups{2**i}") for i in range(7)]


def layers(*, full: bool, accept: Callable[[Problem], bool]) -> list[Problem]:
    """Layers of `shapes/`: the rows marked quick, or all."""
    return [
        problem
        for path in sorted(SHAPES.glob("*.csv"))
        for problem, quick in _rows(path)
        if (full or quick) and accept(problem)
    ]


def _rows(path: Path) -> Iterator[tuple[Problem, bool]]:
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            label, op, quick = row.pop("layer"), row.pop("op"), row.pop("quick") == "1"
            del row["count"]
            sizes = {key: int(value) for key, value in row.items()}
            yield Problem(op=op, label=f"{path.stem}.{label}", **sizes), quick
