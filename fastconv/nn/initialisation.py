"""The random numbers that layers start from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np

_generator: np.random.Generator | None = None
_unfilled: ContextVar[bool] = ContextVar("unfilled", default=False)


def generator() -> np.random.Generator:
    """The generator all layers draw from. Made at its first use: numpy.random is slow to import."""
    global _generator
    if _generator is None:
        _generator = np.random.default_rng()
    return _generator


def manual_seed(seed: int) -> None:
    """Makes the initial parameters of all layers made from now on repeatable.

    The numbers are NumPy's (`numpy.random.default_rng`), so the same seed gives other values than
    in PyTorch. TypeError and ValueError are those of `default_rng`.
    """
    global _generator
    _generator = np.random.default_rng(seed)


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Layers made inside start with zeros that take neither time nor memory, to be loaded over."""
    before = _unfilled.set(True)
    try:
        yield
    finally:
        _unfilled.reset(before)


def kaiming_uniform(shape: tuple[int, ...], fan_in: int, dtype: np.dtype) -> np.ndarray:
    """Uniform numbers in [-b, b) with b = gain * sqrt(3 / fan_in), gain = sqrt(2 / (1 + a^2)).

    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers" (2015), equation 15, with a = sqrt(5) as
    in torch.nn, where b is 1 / sqrt(fan_in). torch.nn draws biases from the same interval.
    """
    if _unfilled.get():
        return np.broadcast_to(dtype.type(0), shape)
    bound = 1 / math.sqrt(fan_in)
    numbers = generator().random(shape, dtype)
    return (numbers * 2 - 1) * dtype.type(bound)
