"""Arrays that cost next to nothing: slices of long ones, in every form that NumPy's views have."""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np

LENGTH = 1 << 20
#: How an array may lie: most often as the engine takes it at once.
FORMS = (
    "packed", "packed", "packed", "packed", "backwards", "apart", "transposed", "channels last",
    "repeated", "swapped", "misaligned", "packed",
)  # fmt: skip


@cache
def integers(dtype: type, most: int) -> np.ndarray:
    """Numbers from -most to most, but no zeros, in equal shares; the same in every type."""
    drawn = bits(most, LENGTH)
    values = (drawn >> np.uint64(32)) % np.uint64(most) + np.uint64(1)
    signs = 1 - 2 * (drawn & np.uint64(1)).astype(np.int64)
    values = (values.astype(np.int64) * signs).astype(dtype)
    values.flags.writeable = False
    return values


@cache
def reals(dtype: type, low: int, high: int) -> np.ndarray:
    """Numbers of random signs and digits, their exponents from low to high; read-only."""
    values = random_values((low + 2000) * 4096 + high + 2000, LENGTH, dtype, low, high)
    values.flags.writeable = False
    return values


def bits(stream: int, n: int) -> np.ndarray:
    """Random bits: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over a counter."""
    z = np.uint64(stream << 32) | np.arange(1, n + 1, dtype=np.uint64)
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_values(stream: int, n: int, dtype, low: int, high: int) -> np.ndarray:
    """Random signs and digits, exponents from low to high; tests/harness.c has the same."""
    drawn = bits(stream, n)
    exponent = (drawn >> np.uint64(53) & np.uint64(0x3FF)) % np.uint64(high - low + 1)
    bias, digits, sign, word = {4: (127, 23, 31, np.uint32), 8: (1023, 52, 63, np.uint64)}[
        np.dtype(dtype).itemsize
    ]
    exponent += np.uint64(low + bias)
    drawn = (
        drawn >> np.uint64(63) << np.uint64(sign)
        | exponent << np.uint64(digits)
        | drawn & np.uint64((1 << digits) - 1)
    )
    return drawn.astype(word).view(dtype)


def taken(pool: np.ndarray, seed: int, shape: tuple[int, ...], form: str) -> np.ndarray:
    """An array of a pool's values that lies in memory as `form` says, and begins anywhere."""
    if form == "backwards":
        return taken(pool, seed, shape, "packed")[(slice(None, None, -1),) * len(shape)]
    if form == "apart":
        return taken(pool, seed, (*shape, 2), "packed")[..., 1]
    if form == "transposed":
        return taken(pool, seed, shape[::-1], "packed").transpose()
    if form == "channels last":
        first, second, *rest = shape
        return np.moveaxis(taken(pool, seed, (first, *rest, second), "packed"), -1, 1)
    if form == "repeated":
        axis = seed % len(shape)
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        return np.broadcast_to(taken(pool, seed, one, "packed"), shape)
    size = prod(shape)
    if size > len(pool):
        pool = np.resize(pool, size)
    start = seed % (len(pool) - size + 1)
    array = pool[start : start + size].reshape(shape)
    if form == "swapped":
        return array.astype(array.dtype.newbyteorder())
    if form == "misaligned":
        room = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(shape)
        room[...] = array
        return room
    return array
