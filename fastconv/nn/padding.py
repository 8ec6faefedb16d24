"""Padding layers: how far, by what, and one call of `fastconv.pad`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastconv import functional as F
from fastconv.nn._sizes import per_axis
from fastconv.nn.module import Module


class _Pad(Module):
    """`padding` is one number, or two for each axis, last axis first: (left, right, top, ...)."""

    _axes: int
    _mode: str
    value = None

    def __init__(self, padding: int | Iterable[int]) -> None:
        super().__init__()
        self.padding = per_axis(type(self).__name__, "padding", padding, 2 * self._axes)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.pad(input, self.padding, self._mode, self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    _mode = "constant"

    def __init__(self, padding: int | Iterable[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_Pad):
    _mode = "constant"
    value = 0.0


class _ReflectionPad(_Pad):
    _mode = "reflect"


class _ReplicationPad(_Pad):
    _mode = "replicate"


class _CircularPad(_Pad):
    _mode = "circular"


class ConstantPad1d(_ConstantPad):
    """Continues the last axis by `value`; `padding` is one number or (left, right)."""

    _axes = 1


class ConstantPad2d(_ConstantPad):
    """Continues the last two axes by `value`; (left, right, top, bottom)."""

    _axes = 2


class ConstantPad3d(_ConstantPad):
    """Continues the last three axes by `value`; (left, right, top, bottom, front, back)."""

    _axes = 3


class ZeroPad1d(_ZeroPad):
    """Continues the last axis by zeros; `padding` is one number or (left, right)."""

    _axes = 1


class ZeroPad2d(_ZeroPad):
    """Continues the last two axes by zeros; (left, right, top, bottom)."""

    _axes = 2


class ZeroPad3d(_ZeroPad):
    """Continues the last three axes by zeros; (left, right, top, bottom, front, back)."""

    _axes = 3


class ReflectionPad1d(_ReflectionPad):
    """Mirrors the last axis about its end values; `padding` is one number or (left, right)."""

    _axes = 1


class ReflectionPad2d(_ReflectionPad):
    """Mirrors the last two axes about their end values; (left, right, top, bottom)."""

    _axes = 2


class ReflectionPad3d(_ReflectionPad):
    """As ReflectionPad2d on three axes; (left, right, top, bottom, front, back)."""

    _axes = 3


class ReplicationPad1d(_ReplicationPad):
    """Repeats the end values of the last axis; `padding` is one number or (left, right)."""

    _axes = 1


class ReplicationPad2d(_ReplicationPad):
    """Repeats the end values of the last two axes; (left, right, top, bottom)."""

    _axes = 2


class ReplicationPad3d(_ReplicationPad):
    """Repeats the end values of the last three axes; (left, right, top, bottom, front, back)."""

    _axes = 3


class CircularPad1d(_CircularPad):
    """Continues the last axis from its other end; `padding` is one number or (left, right)."""

    _axes = 1


class CircularPad2d(_CircularPad):
    """Continues the last two axes from their other ends; (left, right, top, bottom)."""

    _axes = 2


class CircularPad3d(_CircularPad):
    """As CircularPad2d on three axes; (left, right, top, bottom, front, back)."""

    _axes = 3
