"""More than 2**31 elements: inputs, results and indices that 32 bits cannot count, at sampled positions.

The element number i of the input has the value i * 37 % 251 - 125, or that of its row where the input is one
row, repeated. What a case needs beyond the memory that is free is not tested, and says so.

    max_pool1d in 2147483656     an input of so many, places up to there
    conv1d out 2147483656        a result of so many, of a small image and 128 kernels
"""

from __future__ import annotations

import os

import numpy as np

import fastconv as fc
from fastconv.testing._run import Run, Violation

BEYOND = 2**31 + 8
#: case: bytes it takes, in and out.
CASES = {
    "conv1d in": 4 * BEYOND * 5 // 4,
    "conv1d out": 4 * BEYOND * 9 // 8,
    "conv2d repeated": 4 * BEYOND // 16 * 2,
    "conv_transpose1d out": 4 * BEYOND * 9 // 8,
    "max_pool1d in": 4 * BEYOND * 7 // 4,
    "avg_pool1d in": 4 * BEYOND * 5 // 4,
    "relu in place": 4 * BEYOND * 17 // 8,
}
SAMPLES = 2000


def line(index: int) -> str | None:
    return f"{list(CASES)[index % len(CASES)]} {BEYOND}"


def value(i: np.ndarray) -> np.ndarray:
    return (i * 37 % 251 - 125).astype(np.float32)


def image(n: int) -> np.ndarray:
    """Elements 0 to n, a piece at a time."""
    x = np.empty(n, np.float32)
    period = value(np.arange(251 << 12))
    for start in range(0, n, len(period)):
        piece = x[start : start + len(period)]
        piece[:] = period[: len(piece)]
    return x


def free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check(line: str) -> dict[str, int]:
    name, _, count = line.rpartition(" ")
    if free_bytes() < CASES[name] + (1 << 30):
        return {"without the memory": 1}
    n = int(count)
    at = np.random.default_rng(1).integers(0, n // 4, SAMPLES)
    at = np.unique(np.concatenate([at, [0, n // 4 - 1, n // 8, 2**29 - 1, 2**29]]))
    return CHECKS[name](n, at[at < n // 4])


def same(y: np.ndarray, expected: np.ndarray) -> dict[str, int]:
    if not np.array_equal(y, expected):
        raise Violation(f"{np.sum(y != expected)} of {y.size} sampled elements differ")
    return {"elements": int(y.size)}


def conv_in(n: int, at: np.ndarray) -> dict[str, int]:
    y = fc.conv1d(image(n)[None], np.float32([[[1, 2, 3, 4]]]), stride=4)
    return same(y[0, at], sum((t + 1) * value(4 * at + t) for t in range(4)))


def conv_out(n: int, at: np.ndarray) -> dict[str, int]:
    channels, wide = 128, n // 128
    w = np.arange(1, channels + 1, dtype=np.float32).reshape(-1, 1, 1)
    y = fc.conv1d(image(wide)[None], w)
    c, i = at % channels, at // channels % wide
    last = np.full_like(i, channels - 1)
    same(y[last, i], channels * value(i))
    return same(y[c, i], (c + 1) * value(i))


def conv_repeated(n: int, at: np.ndarray) -> dict[str, int]:
    """65536 rows that are one row in memory: no copy is made of them."""
    wide = n >> 16
    x = np.broadcast_to(image(wide), (1, 65536, wide))
    y = fc.conv2d(x, np.ones((1, 1, 4, 4), np.float32), stride=4)
    row, i = at % 16384, at // 16384 % (wide // 4)
    return same(y[0, row, i], 4 * sum(value(4 * i + t) for t in range(4)))


def transposed_out(n: int, at: np.ndarray) -> dict[str, int]:
    small = image(n // 8)
    y = fc.conv_transpose1d(
        small[None], np.arange(1, 9, dtype=np.float32).reshape(1, 1, 8), stride=8
    )
    at = np.concatenate([at, at + (n // 4) * 3])
    return same(y[0, at], (at % 8 + 1) * value(at // 8))


def max_in(n: int, at: np.ndarray) -> dict[str, int]:
    y, places = fc.max_pool1d(image(n)[None], 4, return_indices=True)
    seen = np.stack([value(4 * at + t) for t in range(4)])
    same(places[0, at], 4 * at + seen.argmax(0))
    return same(y[0, at], seen.max(0))


def avg_in(n: int, at: np.ndarray) -> dict[str, int]:
    y = fc.avg_pool1d(image(n)[None], 4)
    return same(y[0, at], sum(value(4 * at + t) for t in range(4)) / np.float32(4))


def relu_in_place(n: int, at: np.ndarray) -> dict[str, int]:
    x = image(n)
    at = np.concatenate([at, at + (n // 4) * 3])
    return same(fc.relu(x, inplace=True)[at], np.maximum(value(at), 0))


CHECKS = {
    "conv1d in": conv_in, "conv1d out": conv_out, "conv2d repeated": conv_repeated,
    "conv_transpose1d out": transposed_out, "max_pool1d in": max_in, "avg_pool1d in": avg_in,
    "relu in place": relu_in_place,
}  # fmt: skip

RUN = Run(
    line, check, cases=len(CASES), full=len(CASES), timeout=900, processes=1,
    promise="inputs, results and indices of more than 2**31 elements",
)  # fmt: skip
