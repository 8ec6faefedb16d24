"""Weights in the packed forms that plans asked for; the order they came in is not kept."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv import _core

# Packing copies elements: so it carries numbers of their size, whatever these mean as floats. They
# are so large that no zero that fills up, and no note that an algorithm adds, looks like one.
_NUMBERS = {4: np.int32, 8: np.int64}
_FIRST = {4: 1 << 30, 8: 1 << 62}


class Weights:
    """One array of weights. Once `drop` was called only packed forms of it are left."""

    def __init__(self, array: np.ndarray) -> None:
        self.packed: dict = {}
        self.array: np.ndarray | None = np.ascontiguousarray(array)
        self.shape, self.dtype, self.original = array.shape, array.dtype, array.nbytes
        self._plans: dict[Any, _core.ConvPlan] = {}
        self._kept = False

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        packed = sum(plan.figures()["packed_bytes"] for plan in self._plans.values())
        return packed + (0 if self.array is None else self.array.nbytes)

    def like(self) -> np.ndarray:
        """The weights, or something of their shape that nobody may read."""
        return np.empty(self.shape, self.dtype) if self.array is None else self.array

    @staticmethod
    def packs(problem: Any) -> bool:
        """Whether there is a packed form for a problem: see `_core.conv`."""
        return not problem.transposed or prod(problem.stride) <= _core.MOST_PACKED_PHASES

    def pack(self, plan: _core.ConvPlan) -> None:
        """Sees to it that there is the form that `plan` wants."""
        if plan.packing is None:
            self._kept = True
        elif plan.packing not in self._plans:
            plan.pack(self._unpacked() if self.array is None else self.array, self.packed)
            self._plans[plan.packing] = plan

    def drop(self) -> None:
        """Lets go of the array, if there is a packed form of it."""
        if self.packed and not self._kept:
            self.array = None

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
