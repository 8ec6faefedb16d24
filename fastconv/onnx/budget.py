"""What a model may use: `Budget` compares sizes and work with its limits before anything is made or done.

A file of a few hundred bytes can ask for any size, by an Expand, a padding or a chain of Tiles, and for
any time, by a kernel as large as its image. Every operator whose output may be larger than its inputs
asks `Context.room` first; what other nodes made is counted when they are done. The sizes are Python's
integers, which do not wrap.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from fastconv.onnx.wire import ModelError

# The multiply-adds of a convolution that take the time in which NumPy makes one element of an array.
ELEMENT = 64
# About ten seconds of one core; and a hundred for every pair of a weight and a number that is fed, which
# leaves room for a network that uses each of its weights at a hundred places for each number.
WORK, WORK_A_PAIR = 10**12, 100


class Budget:
    """Of one run: `memory` bytes that its values may take together, `work` multiply-adds."""

    def __init__(self, memory: int, work: int) -> None:
        self.memory, self.work = memory, work
        self._sizes: dict[str, int] = {}
        self._held = 0

    def ask(self, shape: Iterable[int], kind: np.dtype, taps: int = 1) -> None:
        """For an array about to be made, each element from `taps` others. ModelError: it is too much."""
        shape = [int(size) for size in shape]
        if min(shape, default=0) < 0:
            raise ModelError(f"an array of shape {shape}")
        elements = prod(shape)
        nbytes = elements * np.dtype(kind).itemsize
        if nbytes > self.memory - self._held:
            held = f" beside {self._held} held" if self._held else ""
            raise ModelError(
                f"{shape} of {kind} are {nbytes} bytes{held}, over the limit of {self.memory}"
            )
        self._spend(elements * (ELEMENT + int(taps)))

    def hold(self, name: str, array: Any) -> None:
        """A value was made. ModelError: with it the run's values are too large."""
        self.drop(name)
        self._sizes[name] = size = prod(array.shape) * array.dtype.itemsize
        self._held += size
        if self._held > self.memory:
            raise ModelError(f"values of {self._held} bytes, over the limit of {self.memory}")
        self._spend(prod(array.shape) * ELEMENT)

    def drop(self, name: str) -> None:
        """A value is not needed any more."""
        self._held -= self._sizes.pop(name, 0)

    def _spend(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise ModelError("more work than the limit allows")


def default_memory() -> int:
    """Half of what the machine, the container and RLIMIT_AS allow this process."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for path in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        try:
            with open(f"/sys/fs/cgroup/{path}", encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # there is none, or "max"
            pass
    return min(limits) // 2


def default_work(weights: int, fed: int) -> int:
    """Multiply-adds for a model of so many weights that is fed with so many numbers."""
    return WORK + WORK_A_PAIR * weights * fed
