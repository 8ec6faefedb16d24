"""A pooling as a line: its sizes, its call, and its results from the definition.

max_pool2d n2 c3 i9x37 k3x2 s2x1 d1x1 p1x0 ceil
avg_pool1d n1 c4 i70 k5 s2 d1 p2 exclude over7
adaptive_avg_pool2d n1 c5 i7x19 o3x4
global_max_pool n2 c5 i3x7x7

n batch   c channels   i image   k kernel   s stride   d dilation   p padding   o output size
ceil      ceil_mode    exclude   count_include_pad=False   over7    divisor_override=7
last      arrays lie channels last
"""

from __future__ import annotations

import zlib
from math import prod
from typing import Any, NamedTuple

import numpy as np


class Pool(NamedTuple):
    """A pooling's sizes; what is measured along axes is a tuple of one to three numbers."""

    op: str
    batch: int
    channels: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    ceil: bool = False
    exclude: bool = False
    divisor: int = 0
    last: bool = False

    def __str__(self) -> str:
        words = [self.op, f"n{self.batch}", f"c{self.channels}"]
        for letter, name in LETTERS.items():
            if values := getattr(self, name):
                words.append(letter + "x".join(map(str, values)))
        flags = (("ceil", self.ceil), ("exclude", self.exclude), ("last", self.last))
        words += [name for name, given in flags if given]
        return " ".join(words + [f"over{self.divisor}"] * (self.divisor != 0))

    @property
    def seed(self) -> int:
        return zlib.crc32(str(self).encode()) >> 4

    @property
    def kind(self) -> str:
        return "max" if "max" in self.op else "avg"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *self.size)

    @property
    def out_size(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.windows())

    def options(self) -> dict[str, Any]:
        """The arguments after the input."""
        if self.output:
            return {"output_size": self.output}
        if not self.kernel:
            return {}
        given: dict[str, Any] = {"kernel_size": self.kernel, "stride": self.stride}
        given |= {"padding": self.padding, "ceil_mode": self.ceil}
        if self.kind == "max":
            return given | {"dilation": self.dilation}
        given |= {"count_include_pad": not self.exclude}
        return given | ({"divisor_override": self.divisor} if self.divisor else {})

    def windows(self) -> list[list[range]]:
        """For each axis, the positions in the image under each window; outside of it is padding."""
        if self.output or not self.kernel:
            out = self.output or (1,) * len(self.size)
            return [
                [range(o * n // m, -(-(o + 1) * n // m)) for o in range(m)]
                for n, m in zip(self.size, out, strict=True)
            ]
        found = []
        axes = (self.size, self.kernel, self.stride, self.dilation, self.padding)
        for n, k, s, d, p in zip(*axes, strict=True):
            reach = d * (k - 1) + 1
            last = n - 1 if self.ceil else n + p - reach  # where the last window may begin
            # With ceil_mode windows reach beyond the padding, by less than a stride.
            end = n + p - reach + (s - 1 if self.ceil else 0)
            starts = range(-p, min(last, end) + 1, s)
            found.append([range(i, i + reach, d) for i in starts])
        return found

    def work(self) -> int:
        """Elements under all windows."""
        taps = [sum(map(len, axis)) for axis in self.windows()]
        return self.batch * self.channels * prod(taps)


LETTERS = {
    "i": "size", "k": "kernel", "s": "stride", "d": "dilation", "p": "padding", "o": "output",
}  # fmt: skip


def parse(line: str) -> Pool:
    op, *words = line.split()
    fields: dict[str, Any] = {"op": op}
    for word in words:
        if word in ("ceil", "exclude", "last"):
            fields[word] = True
        elif word.startswith("over"):
            fields["divisor"] = int(word[4:])
        elif word[0] in LETTERS:
            fields[LETTERS[word[0]]] = tuple(map(int, word[1:].split("x")))
        else:
            fields[{"n": "batch", "c": "channels"}[word[0]]] = int(word[1:])
    return Pool(**fields)


def maxima(pool: Pool, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maxima of an array without NaN, and their first positions in the plane."""
    plane = np.arange(prod(pool.size)).reshape(pool.size)
    values, places = _seen(pool, x, -np.inf), _seen(pool, plane[None, None], -1)
    values = values.reshape(*values.shape[: -pool_rank(pool)], -1)
    places = np.broadcast_to(places.reshape(*places.shape[: -pool_rank(pool)], -1), values.shape)
    first = values.argmax(-1)[..., None]
    # What is padding has the least value; of several equal ones the first in the image is meant.
    return np.take_along_axis(values, first, -1)[..., 0], np.take_along_axis(places, first, -1)[
        ..., 0
    ]


def sums(pool: Pool, x: np.ndarray) -> np.ndarray:
    return _seen(pool, x, 0).sum(tuple(range(-pool_rank(pool), 0)))


def divisors(pool: Pool) -> np.ndarray:
    """What each sum of an average is divided by."""
    if pool.divisor:
        return np.float64(pool.divisor)
    counts = np.ones((), np.int64)
    padding = pool.padding if pool.padding and not pool.exclude else (0,) * pool_rank(pool)
    for axis, n, p in zip(pool.windows(), pool.size, padding, strict=True):
        counts = np.multiply.outer(
            counts, [sum(-p <= i < n + p for i in window) for window in axis]
        )
    return counts.astype(np.float64)


def pool_rank(pool: Pool) -> int:
    return len(pool.size)


def _seen(pool: Pool, x: np.ndarray, fill: float) -> np.ndarray:
    """(N, C, *outputs, *taps): what lies under each window, and `fill` where nothing does."""
    y = np.full((*x.shape[:2], *(n + 1 for n in pool.size)), fill, x.dtype)
    y[(..., *(slice(n) for n in pool.size))] = x
    rank, at = pool_rank(pool), []
    for i, (axis, n) in enumerate(zip(pool.windows(), pool.size, strict=True)):
        taps = max(map(len, axis))
        under = [[t if 0 <= t < n else n for t in window] for window in axis]
        under = [taps_of + [n] * (taps - len(taps_of)) for taps_of in under]
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = len(axis), taps
        at.append(np.reshape(under, shape))
    return y[(slice(None), slice(None), *at)]
