"""ONNX's Resize in all its modes: one axis after another, each a weighted sum of a few gathered rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.onnx.wire import ModelError

_MOST_REPEATS = 16  # as a transposed convolution with ones; more often by gathering


def resize(
    x: Any, roi: list | None, scales: list | None, sizes: list | None, how: dict, room: Callable
) -> Any:
    """x with its axes resampled; `how` holds the node's attributes (operator Resize, opset 10 to 19).

    room: called with the shape and type of what is about to be made, and how many elements make one.
    """
    axes = [axis % x.ndim for axis in how.get("axes") or range(x.ndim)]
    lengths = [x.shape[axis] for axis in axes]
    if sizes is not None:
        scales = [new / old for new, old in zip(sizes, lengths, strict=True)]
        policy = how.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            least = {"not_larger": min, "not_smaller": max}[policy](scales)
            scales = [least] * len(scales)
            sizes = [math.floor(least * old + 0.5) for old in lengths]
    elif scales is not None:
        scales = [float(scale) for scale in scales]
        sizes = [math.floor(old * scale) for old, scale in zip(lengths, scales, strict=True)]
    else:
        raise ModelError("Resize has neither scales nor sizes")
    if (
        how.get("mode", "nearest") == "nearest"
        and x.ndim == 4
        and x.dtype in (np.float32, np.float64)
    ):
        repeats = _repeats(x, axes, scales, sizes, roi, how)
        if repeats is not None:
            room((*x.shape[:2], x.shape[2] * repeats[0], x.shape[3] * repeats[1]), x.dtype)
            ones = _ones(x.shape[1], *repeats, x.dtype)
            return F.conv_transpose2d(x, ones, None, repeats, 0, 0, x.shape[1])
    for i, axis in enumerate(axes):
        ends = (0.0, 1.0) if roi is None else (roi[i], roi[i + len(axes)])
        if scales[i] != 1 or sizes[i] != lengths[i] or ends != (0.0, 1.0):
            x = _resampled(x, axis, int(sizes[i]), scales[i], ends, how, room)
    return x


def _repeats(x: Any, axes: list, scales: list, sizes: list, roi: list | None, how: dict):
    """(down, along): how often every pixel is repeated, if that is all."""
    factors = dict(zip(axes, zip(sizes, scales, strict=True), strict=True))
    mode = how.get("coordinate_transformation_mode", "half_pixel")
    rounding = how.get("nearest_mode", "round_prefer_floor")
    found = []
    for axis, length in enumerate(x.shape):
        size, scale = factors.get(axis, (length, 1))
        if (
            size < length
            or size % length
            or scale != size // length
            or size // length > _MOST_REPEATS
        ):
            return None
        if roi is not None and mode == "tf_crop_and_resize":
            return None
        rows = _nearest(_positions(size, length, scale, (0.0, 1.0), mode), rounding)
        if not np.array_equal(np.clip(rows, 0, length - 1), np.arange(size) // (size // length)):
            return None
        found.append(int(size // length))
    return tuple(found[2:]) if found[:2] == [1, 1] and max(found) > 1 else None


@functools.lru_cache(maxsize=64)
def _ones(channels: int, down: int, along: int, kind: np.dtype) -> np.ndarray:
    """The same array each time, so that it is packed once."""
    return np.ones((channels, 1, down, along), kind)


def _resampled(
    x: Any, axis: int, size: int, scale: float, ends: tuple, how: dict, room: Callable
) -> Any:
    length, mode = x.shape[axis], how.get("mode", "nearest")
    smoothing = min(scale, 1.0) if mode != "nearest" and how.get("antialias", 0) else 1.0
    taps = 2 * math.ceil(2 / smoothing)
    room((max(1, size), taps), np.dtype(np.float64))
    room((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype, taps)
    at = _positions(
        size, length, scale, ends, how.get("coordinate_transformation_mode", "half_pixel")
    )
    if mode == "nearest":
        rows = _nearest(at, how.get("nearest_mode", "round_prefer_floor"))
        y = np.take(x, np.clip(rows, 0, length - 1), axis=axis)
    else:
        rows, weights = _taps(at, mode, length, smoothing, how)
        y = _weighted(x, axis, rows, weights)
    if how.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        return y
    outside = ((at < 0) | (at > length - 1)).reshape(
        [-1 if i == axis else 1 for i in range(x.ndim)]
    )
    return np.where(outside, x.dtype.type(how.get("extrapolation_value", 0.0)), y)


def _positions(size: int, length: int, scale: float, ends: tuple, mode: str) -> np.ndarray:
    """Where in the input each output lies."""
    i = np.arange(size, dtype=np.float64)
    if mode == "asymmetric":
        return i / scale
    if mode == "align_corners":
        return i * (length - 1) / (length * scale - 1) if size > 1 else i * 0
    if mode == "tf_crop_and_resize":
        start, end = ends
        if size > 1:
            return start * (length - 1) + i * (end - start) * (length - 1) / (size - 1)
        return np.full(1, 0.5 * (start + end) * (length - 1))
    if mode == "pytorch_half_pixel" and size == 1:
        return i * 0
    if mode == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if mode == "half_pixel_symmetric":
        centre = length / 2
        return centre * (1 - size / (length * scale)) + (i + 0.5) / scale - 0.5
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / scale - 0.5
    raise ModelError(f"Resize: coordinate_transformation_mode is {mode!r}")


def _nearest(at: np.ndarray, mode: str) -> np.ndarray:
    rounding = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if mode not in rounding:
        raise ModelError(f"Resize: nearest_mode is {mode!r}")
    return rounding[mode](at).astype(np.int64)


def _taps(at: np.ndarray, mode: str, length: int, smoothing: float, how: dict):
    """(size, taps) rows and weights. A smaller image is smoothed by widening the filter."""
    filters = {
        "linear": (1.0, _triangle),
        "cubic": (2.0, lambda t: _cubic(t, how.get("cubic_coeff_a", -0.75))),
    }
    if mode not in filters:
        raise ModelError(f"Resize: mode is {mode!r}")
    support, weigh = filters[mode]
    reach = math.ceil(support / smoothing)
    offsets = np.arange(-reach + 1, reach + 1)
    rows = np.floor(at).astype(np.int64)[:, None] + offsets
    weights = weigh((rows - at[:, None]) * smoothing)
    if how.get("exclude_outside", 0) or smoothing != 1:
        if how.get("exclude_outside", 0):
            weights = np.where((rows >= 0) & (rows < length), weights, 0)
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(rows, 0, length - 1), weights


def _triangle(t: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(t))


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """R. Keys, IEEE Trans. ASSP 29 (1981)."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _weighted(x: Any, axis: int, rows: np.ndarray, weights: np.ndarray) -> Any:
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    y = None
    for tap in range(rows.shape[1]):
        if not weights[:, tap].any():
            continue
        term = np.take(x, rows[:, tap], axis=axis) * weights[:, tap].astype(x.dtype).reshape(shape)
        y = term if y is None else y + term
    return y
