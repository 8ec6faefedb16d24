"""Any call of the package as a line.

    conv2d n1 c3-5 i9x21 k3 ...                              a convolution: _cases.py
    max_pool2d 2x3x9x37 kernel_size=3 stride=2 padding=1     anything else: shape of its input, options

The values of the arrays follow from the line.
"""

from __future__ import annotations

import ast
import random
import zlib
from math import prod
from typing import Any, NamedTuple

import numpy as np

import fastconv as fc
from fastconv.testing import _cases
from fastconv.testing._cases import Case

POOLS = ("max_pool", "avg_pool", "lp_pool", "adaptive_avg_pool", "adaptive_max_pool", "max_unpool")
MAPS = ("relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "sigmoid", "tanh", "hardsigmoid",
        "hardswish", "softplus", "prelu", "softmax", "batch_norm", "layer_norm")  # fmt: skip
OTHERS = ("linear", "global_avg_pool", "global_max_pool", "pad", "interpolate", "unfold")
AXIS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 63, 65, 70)


class Call(NamedTuple):
    """A call that is no convolution."""

    op: str
    shape: tuple[int, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        words = [f"{name}={value!r}".replace(" ", "") for name, value in self.options.items()]
        return " ".join([self.op, "x".join(map(str, self.shape)), *words])

    def arrays(self, dtype) -> tuple[np.ndarray, ...]:
        seed = zlib.crc32(str(self).encode()) >> 4

        def values(stream: int, *shape: int) -> np.ndarray:
            flat = _cases.random_values(4 * seed + stream, prod(shape), dtype, -3, 2)
            return flat.reshape(shape)

        x = values(0, *self.shape)
        if self.op == "prelu":
            return x, values(1, self.shape[1])
        if self.op == "linear":
            return x, values(1, 5, self.shape[-1]), values(2, 5)
        if self.op == "batch_norm":
            return x, values(1, self.shape[1]), abs(values(2, self.shape[1]))
        if self.op.startswith("lp_pool"):
            return (abs(x),)
        if self.op.startswith("max_unpool"):
            pool = getattr(fc, self.op.replace("unpool", "pool"))
            return pool(x, **self.options, return_indices=True)
        return (x,)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        result = getattr(fc, self.op)(*arrays, **self.options)
        return result if isinstance(result, tuple) else (result,)


def parse(line: str) -> Case | Call:
    op, rest, *words = line.split()
    if op.startswith("conv"):
        return _cases.parse(line)
    options = dict(word.split("=", 1) for word in words)
    shape = tuple(map(int, rest.split("x")))
    return Call(op, shape, {name: ast.literal_eval(value) for name, value in options.items()})


def draw(rng: random.Random, most_work: int) -> Case | Call:
    """A random call, two in three of them convolutions, of about so much work at most."""
    if rng.random() < 2 / 3:
        return _cases.draw(rng, most_work)
    while True:
        call = _draw(rng)
        if prod(call.shape) <= most_work // 4:
            return call


def _draw(rng: random.Random) -> Call:
    dims = rng.choice((1, 2, 2, 2, 3))
    kind = rng.choice((POOLS, POOLS, MAPS, OTHERS))
    op = rng.choice(kind)
    size = [rng.choice(AXIS) for _ in range(dims)]
    shape = (rng.choice((1, 1, 2, 3)), rng.choice((1, 2, 3, 5, 8, 16, 17)), *size)
    if op == "max_unpool":  # of whole windows, for others may lie beyond what comes back
        kernel = tuple(rng.choice((1, 2, 3, 5)) for _ in size)
        whole = (k * max(1, n // k) for k, n in zip(kernel, size, strict=True))
        return Call(f"{op}{dims}d", (*shape[:2], *whole), {"kernel_size": kernel})
    if kind is POOLS:
        return Call(f"{op}{dims}d", shape, _pool_options(rng, op, size))
    options: dict[str, Any] = {}
    if op == "softmax":
        options = {"dim": rng.randrange(-1, 2)}
    elif op == "layer_norm":
        options = {"normalized_shape": tuple(size)}
    elif op == "pad":
        options = {"pad": (rng.randrange(4), rng.randrange(4)), "value": 1.0}
    elif op == "interpolate":
        options = {"size": tuple(rng.randint(1, 2 * n) for n in size)}
    elif op == "unfold":
        shape = (*shape[:2], *(*size, 3, 4)[:2])
        options = {"kernel_size": tuple(rng.randint(1, n) for n in shape[2:])}
    return Call(op, shape, options)


def _pool_options(rng: random.Random, op: str, size: list[int]) -> dict[str, Any]:
    if op.startswith("adaptive"):
        return {"output_size": tuple(rng.randint(1, n) for n in size)}
    kernel = tuple(rng.choice((1, 2, 3, 5, rng.randint(1, n))) for n in size)
    kernel = tuple(min(k, n) for k, n in zip(kernel, size, strict=True))
    options: dict[str, Any] = {"kernel_size": kernel}
    if op == "lp_pool":
        options["norm_type"] = rng.choice((1, 2, 3))
    options["stride"] = tuple(rng.choice((1, 2, k)) for k in kernel)
    options["ceil_mode"] = rng.random() < 0.3
    if op in ("max_pool", "avg_pool"):
        options["padding"] = tuple(rng.randint(0, k // 2) for k in kernel)
    if op == "max_pool":
        options["return_indices"] = rng.random() < 0.4
        room = zip(size, kernel, options["padding"], strict=True)
        if all(n + 2 * p > 2 * (k - 1) for n, k, p in room):
            options["dilation"] = rng.choice((1, 1, 2))
    if op == "avg_pool":
        options["count_include_pad"] = rng.random() < 0.5
    return options
