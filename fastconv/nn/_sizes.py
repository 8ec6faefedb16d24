"""The sizes a layer is made with, judged once, when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index


def positive(layer: str, name: str, value: int) -> int:
    """The whole number `value`, which must be at least one."""
    if isinstance(value, bool):
        raise TypeError(f"{layer}: {name} must be an integer, got {value}")
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{layer}: {name} must be an integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{layer}: {name} must be positive, got {number}")
    return number


def per_axis(layer: str, name: str, value: int | Iterable, axes: int) -> tuple:
    """One entry an axis: a single value is repeated, a sequence must have `axes` entries."""
    if not isinstance(value, Iterable):
        return (value,) * axes
    entries = tuple(value)
    if len(entries) != axes:
        raise ValueError(f"{layer}: {name} must be one value or {axes} values, got {entries}")
    return entries
