"""Weights in the packed forms that plans asked for; the order they came in is not kept."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv import _core, _memory

# Packing copies elements: so it carries numbers of their size, whatever these mean as floats. They
# are so large that no zero that fills up, and no note that an algorithm adds, looks like one.
_NUMBERS = {4: np.int32, 8: np.int64}
_FIRST = {4: 1 << 30, 8: 1 << 62}
_PIECE = 8 << 20


class Weights:
    """One array of weights. Once `drop` was called only packed forms of it are left.

    array: as steps may use it, which one in a file may not be: that lies at any address.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.packed: dict = {}
        array = np.asarray(array)
        self._source: np.ndarray | None = array
        self._blank: np.ndarray | None = None
        usable = array.flags.c_contiguous and array.flags.aligned
        self.array: np.ndarray | None = array if usable else None
        self.shape, self.dtype, self.original = array.shape, array.dtype, array.nbytes
        self._plans: dict[Any, _core.ConvPlan] = {}
        self._kept = False

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        packed = sum(plan.figures()["packed_bytes"] for plan in self._plans.values())
        return packed + (0 if self.array is None else self.array.nbytes)

    def like(self) -> np.ndarray:
        """The weights, or something of their shape that nobody may read, unless `pack` fills it."""
        if self.array is not None:
            return self.array
        self._blank = np.empty(self.shape, self.dtype)
        return self._blank

    @staticmethod
    def packs(problem: Any) -> bool:
        """Whether there is a packed form for a problem: see `_core.conv`."""
        return not problem.transposed or prod(problem.stride) <= _core.MOST_PACKED_PHASES

    def pack(self, plan: _core.ConvPlan) -> None:
        """Sees to it that there is the form that `plan`, made with what `like` gave, wants."""
        if plan.packing is None:
            self._kept = True
            if self.array is None:
                array = self._blank
                self._fill(array)
                self.array = array
        elif plan.packing not in self._plans:
            self._pack(plan)
            self._plans[plan.packing] = plan
        self._blank = None

    def _pack(self, plan: _core.ConvPlan) -> None:
        """Straight from the file if that can be, as a copy of large weights takes longer than packing them."""
        unit, source = plan.pack_unit(), self._source
        if self.array is None and source is not None and source.flags.c_contiguous and unit:
            pieces = _pieces(source, unit)
            room = np.empty_like(source[: pieces[0].stop])
            plan.pack_pieces((_read(source[at], room) for at in pieces), self.packed)
            return
        array = self.array
        if array is None:
            array = np.empty(self.shape, self.dtype)
            self._fill(array)
        plan.pack(array, self.packed)

    def _fill(self, array: np.ndarray) -> None:
        """With the weights, read piece by piece: of a file no more than that is in memory."""
        if self._source is None:
            array[...] = self._unpacked()
            return
        source = self._source
        if source.T.flags.c_contiguous:  # in the order it lies in
            array, source = array.T, source.T
        for at in _pieces(source, 1):
            _read(source[at], array[at])

    def drop(self) -> None:
        """Lets go of the array, if there is a packed form of it."""
        if self.packed and not self._kept:
            self.array = self._source = None

    def _unpacked(self) -> np.ndarray:
        """The array as it came: packing its elements' numbers tells where each of them went."""
        packing, plan = next(iter(self._plans.items()))
        number, first = _NUMBERS[self.dtype.itemsize], _FIRST[self.dtype.itemsize]
        size = prod(self.shape)
        numbers = np.arange(first, first + size, dtype=number).reshape(self.shape)
        values = plan.pack(self.like(), {packing: self.packed[packing]}).view(self.dtype)
        places = plan.pack(numbers.view(self.dtype), {}).view(number) - number(first)
        real = (0 <= places) & (places < size)
        array = np.empty(size, self.dtype)
        array[places[real]] = values[real]
        return array.reshape(self.shape)


def _pieces(array: np.ndarray, unit: int) -> list[slice]:
    """Of about _PIECE bytes, each but the last of so many units of the first axis."""
    rows = max(1, _PIECE * len(array) // max(array.nbytes, 1) // unit) * unit
    return [slice(start, min(start + rows, len(array))) for start in range(0, len(array), rows)]


def _read(piece: np.ndarray, room: np.ndarray) -> np.ndarray:
    """A copy at the beginning of `room`, which was not in memory before and is not after, if it is in a file."""
    copy = room[: len(piece)]
    copy[...] = piece
    _memory.let_go(piece)
    return copy
