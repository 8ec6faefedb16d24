"""A convolution as a line: its sizes, its values, its call.

    conv2d n2 c6-4 g2 i7x9 k3x1 s2 d1x2 p1x0 q0x1 nobias last

    n batch   c channels in - out   g groups   i image   k kernel   s stride   d dilation
    p zeros before the image        q zeros after it (p where not given)
    nobias    no bias               last      arrays lie channels last

One number stands for all axes. Transposed, p and q crop the result: p is `padding`, p - q is
`output_padding`. The values of the arrays follow from the line.
"""

from __future__ import annotations

import random
import re
import zlib
from math import prod
from typing import Any, NamedTuple

import numpy as np

import fastconv as fc
from fastconv.testing._arrays import random_values

LETTERS = {
    "n": "batch", "g": "groups", "i": "size", "k": "kernel", "s": "stride", "d": "dilation",
    "p": "before", "q": "after",
}  # fmt: skip
AXES = ("size", "kernel", "stride", "dilation", "before", "after")


class Case(NamedTuple):
    """A convolution's sizes; what is measured along axes is a tuple of one to three numbers."""

    op: str
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    batch: int = 1
    ic: int = 1
    oc: int = 1
    groups: int = 1
    bias: bool = True
    last: bool = False

    def __str__(self) -> str:
        words = [self.op, f"n{self.batch}", f"c{self.ic}-{self.oc}", f"g{self.groups}"]
        words += [
            letter + "x".join(map(str, getattr(self, name)))
            for letter, name in LETTERS.items()
            if name in AXES
        ]
        words += ["nobias"] * (not self.bias) + ["last"] * self.last
        return " ".join(words)

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def transposed(self) -> bool:
        return "transpose" in self.op

    @property
    def seed(self) -> int:
        return zlib.crc32(str(self).encode()) >> 4

    @property
    def out_size(self) -> tuple[int, ...]:
        if self.transposed:
            return tuple((n - 1) * s + d * (k - 1) + 1 - p - q for n, k, s, d, p, q in self._axes())
        return tuple((n + p + q - d * (k - 1) - 1) // s + 1 for n, k, s, d, p, q in self._axes())

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.ic, *self.size)

    @property
    def w_shape(self) -> tuple[int, ...]:
        first, second = (self.ic, self.oc) if self.transposed else (self.oc, self.ic)
        return (first, second // self.groups, *self.kernel)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, self.oc, *self.out_size)

    @property
    def chain(self) -> int:
        """The most products that one output sums."""
        return self.ic // self.groups * prod(self.kernel)

    @property
    def work(self) -> int:
        """Multiply-adds."""
        outputs = self.size if self.transposed else self.out_size
        return self.batch * self.oc * self.chain * prod(outputs)

    def _axes(self):
        return zip(*(getattr(self, name) for name in AXES), strict=True)

    def hit(self) -> float:
        """The share of outputs that meet an input at all, and not only zeros between or beside."""
        shares = []
        for (n, k, s, d, p, _), out in zip(self._axes(), self.out_size, strict=True):
            o, t = np.ogrid[:out, :k]
            if self.transposed:
                at, rest = np.divmod(o + p - t * d, s)
            else:
                at, rest = o * s - p + t * d, 0
            shares.append(((rest == 0) & (at >= 0) & (at < n)).any(axis=1).mean())
        return float(np.prod(shares))

    # values

    def integers(self, dtype=np.int64) -> tuple:
        """x, w, bias: none zero, and so small that no sum of products needs rounding."""
        rng = np.random.default_rng(self.seed)
        assert 64 * self.chain + 99 < 2**24

        def array(shape, high):
            return (rng.integers(1, high + 1, shape) * rng.choice((-1, 1), shape)).astype(dtype)

        x, w, b = array(self.x_shape, 8), array(self.w_shape, 8), array(self.oc, 99)
        return x, w, b if self.bias else None

    def reals(self, dtype, low: int = -8, high: int = 0) -> tuple:
        """x, w, bias of random signs and mantissas, exponents low to high: harness.c's values."""
        parts = enumerate((prod(self.x_shape), prod(self.w_shape), self.oc))
        x, w, b = (random_values(4 * self.seed + i, n, dtype, low, high) for i, n in parts)
        return x.reshape(self.x_shape), w.reshape(self.w_shape), b if self.bias else None

    # calls

    def options(self) -> dict[str, Any]:
        options = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        if self.transposed:
            extra = tuple(p - q for p, q in zip(self.before, self.after, strict=True))
            return options | {"padding": self.before, "output_padding": extra}
        return options | {"padding": tuple(zip(self.before, self.after, strict=True))}

    def reference(self, module, x, w, b, **extras) -> np.ndarray:
        """The result of a module's function of this name, whatever the layout of the case."""
        return getattr(module, self.op)(x, w, b, **self.options(), **extras)

    def run(self, x, w, b, **extras) -> np.ndarray:
        """fastconv's result; arrays come and go channels first, and lie as the case says."""
        if not self.last:
            return self.reference(fc, x, w, b, **extras)
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        if "residual" in extras:
            extras["residual"] = np.ascontiguousarray(np.moveaxis(extras["residual"], 1, -1))
        return np.moveaxis(self.reference(fc, x, w, b, layout="NHWC", **extras), -1, 1)


def parse(line: str) -> Case:
    op, *words = line.split()
    dims = int(op[-2])
    fields: dict[str, Any] = {name: (1,) for name in AXES} | {"before": (0,), "op": op}
    for word in words:
        if word in ("nobias", "last"):
            fields |= {"bias": False} if word == "nobias" else {"last": True}
        elif channels := re.fullmatch(r"c(\d+)-(\d+)", word):
            fields |= {"ic": int(channels[1]), "oc": int(channels[2])}
        else:
            name, numbers = LETTERS[word[0]], tuple(map(int, word[1:].split("x")))
            fields[name] = numbers if name in AXES else numbers[0]
    fields["after"] = fields["after"] if re.search(r"\bq-?\d", line) else fields["before"]
    fields |= {n: fields[n] * (dims if len(fields[n]) == 1 else 1) for n in AXES}
    return Case(**fields)


# Random cases ---------------------------------------------------------------------------------------
# Sizes lie at the edges of vectors and tiles, not in the middle between them.

EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 65)
CHANNELS = (1, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 24, 31, 33)


def draw(rng: random.Random, most_work: int) -> Case:
    """A random case of at most so many multiply-adds, most of whose outputs are not zero."""
    while True:
        case = _draw(rng)
        if (
            min(case.out_size) > 0
            and 0 < case.work <= most_work
            and prod(case.y_shape) <= most_work // 4
            and prod(case.x_shape) <= most_work // 4
            and case.hit() >= 0.5
        ):
            return case


def _draw(rng: random.Random) -> Case:
    dims = rng.choice((1, 2, 2, 2, 3))
    transposed = rng.random() < 0.35

    def axes(choose):
        return tuple(choose() for _ in range(dims))

    kernel = axes(lambda: rng.choice((1, 1, 2, 3, 3, 4, 5, 7, rng.randint(1, 40))))
    stride = axes(lambda: rng.choice((1, 1, 2, 3, rng.randint(1, 5))))
    dilation = axes(lambda: rng.choice((1, 1, 1, 2, 3, 5)))
    before = tuple(rng.choice((0, k // 2, rng.randint(0, k + 1))) for k in kernel)
    if transposed:  # output_padding is below stride or dilation
        extra = zip(before, stride, dilation, strict=True)
        after = tuple(p - rng.choice((0, rng.randint(0, max(s, d) - 1))) for p, s, d in extra)
    else:
        ends = zip(before, kernel, strict=True)
        after = tuple(rng.choice((p, rng.randint(0, k + 1))) for p, k in ends)
    groups = rng.choice((1, 1, 1, 2, 3, rng.choice(CHANNELS)))
    icg, ocg = rng.choice(CHANNELS), rng.choice(CHANNELS)
    if groups > 3:
        icg, ocg = rng.choice((1, 1, 2)), rng.choice((1, 1, 2, 3))
    return Case(
        op=f"conv_transpose{dims}d" if transposed else f"conv{dims}d",
        size=axes(lambda: rng.choice((*EDGES, rng.randint(1, 100)))),
        kernel=kernel, stride=stride, dilation=dilation, before=before, after=after,
        batch=rng.choice((1, 1, 1, 2, 5)), ic=groups * icg, oc=groups * ocg, groups=groups,
        bias=rng.random() < 0.8, last=rng.random() < 0.25,
    )  # fmt: skip
