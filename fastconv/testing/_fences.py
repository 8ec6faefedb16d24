"""Memory between pages that nobody may touch, for arrays and for all that the package allocates.

A trespass kills the process. What is written within the same page shows in the bytes around.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

import fastconv as fc
from fastconv import _memory
from fastconv.testing._run import Violation

ALIGNMENT = 64  # FC_ALIGN: by which the door moves the beginning of workspaces and packed weights
UNTOUCHED, NAN = 0xA5, 0xFF
SIDES = ("end", "begin")
#: Rows next to each other, or three elements apart, or everything backwards.
FORMS = ("packed", "apart", "backwards")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Fence:
    """Whole pages between two that may not be touched; `inside` are the bytes that may."""

    def __init__(self, nbytes: int):
        size = max(-(-nbytes // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, size + 2 * mmap.PAGESIZE)
        self.inside = self.bytes(size, 0)
        self.inside[:] = UNTOUCHED
        first = self.inside.ctypes.data
        for page in (first - mmap.PAGESIZE, first + size):
            if _libc.mprotect(page, mmap.PAGESIZE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def bytes(self, nbytes: int, start: int) -> np.ndarray:
        return np.frombuffer(self.map, np.uint8, nbytes, mmap.PAGESIZE + start)

    def place(self, nbytes: int, side: str, away: int = 0) -> np.ndarray:
        """So many bytes that end, or begin, `away` bytes from the fence."""
        return self.bytes(nbytes, self.inside.size - nbytes - away if side == "end" else away)

    def check(self, view: np.ndarray) -> None:
        """All bytes inside that are not elements of view are as they were."""
        foreign = np.ones(self.inside.size, bool)
        first = view.__array_interface__["data"][0] - self.inside.ctypes.data
        if view.flags.c_contiguous:
            foreign[first : first + view.nbytes] = False
        else:
            at = np.zeros(1, np.intp)
            for n, stride in zip(view.shape, view.strides, strict=True):
                at = (at[:, None] + np.arange(n) * stride).ravel()
            for byte in range(view.itemsize):
                foreign[first + at + byte] = False
        if not (self.inside[foreign] == UNTOUCHED).all():
            raise Violation("bytes beside an array are written")


def fenced(
    a: np.ndarray, side: str, form: str = "packed", away: int = 0
) -> tuple[Fence, np.ndarray]:
    """A copy of `a` whose outermost element lies `away` elements from the fence."""
    gap = 3 if form == "apart" else 0
    *rows, row = a.shape
    span = ((prod(rows) - 1) * (row + gap) + row) * a.itemsize
    fence = Fence(span + away * a.itemsize)
    strides = [a.itemsize]
    for n in reversed(a.shape[1:]):
        strides.append(strides[-1] * n if len(strides) > 1 else (n + gap) * a.itemsize)
    flat = fence.place(span, side, away * a.itemsize).view(a.dtype)
    view = as_strided(flat, a.shape, strides[::-1])
    if form == "backwards":
        view = np.flip(view)
    view[...] = a
    return fence, view


class Allocator:
    """What the package allocates lies at a fence, full of NaN, and is looked at when it is checked."""

    def __init__(self, side: str):
        self.side = side
        self.results: list[tuple[Fence, np.ndarray]] = []
        self.slack: list[np.ndarray] = []

    def allocate(self, shape, dtype) -> np.ndarray:
        """Stands in for _memory._allocate."""
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if dtype == np.uint8:
            return self.aligned(nbytes)
        fence = Fence(nbytes)
        place = fence.place(nbytes, self.side)
        place[:] = NAN
        self.results.append((fence, place))
        return place.view(dtype).reshape(shape)

    def aligned(self, nbytes: int) -> np.ndarray:
        """A workspace, or packed weights: what is used of them begins at a multiple of ALIGNMENT.

        So that this ends at the fence (or as near to it as a multiple allows), they begin one byte
        behind such a multiple and have one byte beyond. The bytes around are nobody's.
        """
        used = nbytes - ALIGNMENT
        fence = Fence(nbytes)
        start = (fence.inside.size - used) // ALIGNMENT * ALIGNMENT if self.side == "end" else 0
        fence.inside[:] = NAN
        self.slack += [fence.inside[:start], fence.inside[start + used :]]
        return fence.bytes(nbytes, start - ALIGNMENT + 1 if self.side == "end" else 0)

    def check(self) -> None:
        for fence, place in self.results:
            fence.check(place)
        if not all((slack == NAN).all() for slack in self.slack):
            raise Violation("beside a workspace is written")
        self.results.clear()
        self.slack.clear()


@contextmanager
def guarded(side: str) -> Iterator[Allocator]:
    """All that the package allocates within lies at fences."""
    allocator, before = Allocator(side), _memory._allocate
    fc.free_memory()
    _memory._allocate = allocator.allocate
    try:
        yield allocator
    finally:
        _memory._allocate = before
        fc.free_memory()
    allocator.check()
