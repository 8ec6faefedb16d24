"""ONNX's convolutions, with those of quantised numbers, and its poolings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.onnx.context import Context, along, least, register, wide
from fastconv.onnx.tensors import TYPES

# --- convolution ------------------------------------------------------------------------------


def _windows(c: Context, image: Sequence[int], kernel: Sequence[int], auto: str | None = None):
    """(stride, dilation, [(low, high)] padding) of each axis, auto_pad worked out."""
    axes = len(kernel)
    stride, dilation = c("strides") or [1] * axes, c("dilations") or [1] * axes
    auto = c("auto_pad", "NOTSET") if auto is None else auto
    if auto in ("NOTSET", ""):
        pads = c("pads") or [0] * (2 * axes)
        return stride, dilation, list(zip(pads[:axes], pads[axes:], strict=True))
    if auto == "VALID":
        return stride, dilation, [(0, 0)] * axes
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise c.error(f"auto_pad is {auto!r}")
    pads = []
    for size, k, s, d in zip(image, kernel, stride, dilation, strict=True):
        all_ = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        low = all_ // 2 if auto == "SAME_UPPER" else -(-all_ // 2)
        pads.append((low, all_ - low))
    return stride, dilation, pads


def _outs(image, kernel, stride, dilation, pads, ceil: bool = False) -> list[int]:
    """How many windows there are along each axis."""
    outs = []
    for size, k, s, d, (low, high) in zip(image, kernel, stride, dilation, pads, strict=True):
        out = (size + low + high - d * (k - 1) - 1 + (s - 1) * ceil) // s + 1
        if ceil and (out - 1) * s >= size + low:
            out -= 1
        outs.append(max(0, out))
    return outs


def _dims(c: Context, x: Any) -> int:
    if not 3 <= x.ndim <= 5:
        raise c.error(f"an image of {x.ndim - 2} axes; 1 to 3 are supported")
    return x.ndim - 2


@register("Conv")
@wide
def conv(c: Context, x, w, b=None):
    dims = _dims(c, x)
    stride, dilation, pads = _windows(c, x.shape[2:], w.shape[2:])
    outs = _outs(x.shape[2:], w.shape[2:], stride, dilation, pads)
    c.room((x.shape[0], w.shape[0], *outs), x.dtype, math.prod(w.shape[1:]))
    function = getattr(F, f"conv{dims}d")
    return function(x, w, b, tuple(stride), tuple(pads), tuple(dilation), c("group", 1))


@register("ConvTranspose")
@wide
def conv_transpose(c: Context, x, w, b=None):
    dims = _dims(c, x)
    stride, dilation, pads = _windows(c, x.shape[2:], w.shape[2:], "NOTSET")
    extra = c("output_padding") or [0] * dims
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    whole = [
        (size - 1) * s + r + e
        for size, s, r, e in zip(x.shape[2:], stride, reach, extra, strict=True)
    ]
    auto, wanted = c("auto_pad", "NOTSET"), c("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(x.shape[2:], stride, strict=True)]
    if wanted is not None:
        all_ = [size - out for size, out in zip(whole, wanted[-dims:], strict=True)]
        extra = [e + max(0, -n) for e, n in zip(extra, all_, strict=True)]
        all_ = [max(0, n) for n in all_]
        halves = [(n // 2, n - n // 2) for n in all_]
        pads = [(b, a) if auto != "SAME_UPPER" else (a, b) for a, b in halves]
    least = [max(0, min(pair)) for pair in pads]
    outs = [size - 2 * low for size, low in zip(whole, least, strict=True)]
    taps = w.shape[0] * math.prod(w.shape[2:]) // math.prod(stride)
    c.room((x.shape[0], w.shape[1] * c("group", 1), *outs), x.dtype, taps)
    function = getattr(F, f"conv_transpose{dims}d")
    y = function(
        x, w, b, tuple(stride), tuple(least), tuple(extra), c("group", 1), tuple(dilation)
    )  # fmt: skip
    if all(pair == (n, n) for pair, n in zip(pads, least, strict=True)):
        return y
    cut = [
        slice(low - n, size - (high - n))
        for (low, high), n, size in zip(pads, least, y.shape[2:], strict=True)
    ]
    return y[(slice(None), slice(None), *cut)]


# --- quantisation: exact in integers or in float, as the standard defines it -------------------


def _scales(c: Context, values: Any, x: Any) -> Any:
    """Of a quantisation: one for all, one an index of an axis, or one a block along it."""
    axis, block = c("axis", 1), c("block_size", 0)
    if not block:
        values = along(values, axis, x.ndim)
        c.room_to_spread(x, values)
        return values
    c.room((math.prod(values.shape) * block,), values.dtype)
    whole = np.repeat(values, block, axis=axis)
    return whole[(slice(None),) * (axis % x.ndim) + (slice(x.shape[axis]),)]


@register("QuantizeLinear")
def quantize_linear(c: Context, x, scale, zero=None):
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    if zero is None and c("output_dtype", 0):
        kind = TYPES[c("output_dtype")]
    y = np.rint(x / _scales(c, scale, x))
    if zero is not None:
        y = y + _scales(c, zero, x).astype(np.float32)
    limits = np.iinfo(kind)
    return np.clip(y, limits.min, limits.max).astype(kind)


@register("DequantizeLinear")
def dequantize_linear(c: Context, x, scale, zero=None):
    y = x.astype(np.int32)
    if zero is not None:
        y = y - _scales(c, zero, x).astype(np.int32)
    return y.astype(scale.dtype) * _scales(c, scale, x)


@register("ConvInteger")
def conv_integer(c: Context, x, w, x_zero=None, w_zero=None):
    return _integer_convolution(c, x, w, x_zero, w_zero).astype(np.int32)


def _integer_convolution(c: Context, x, w, x_zero, w_zero):
    """In float64, whose 53 bits hold every sum of such products: at most 2^16 each, 2^37 of them."""
    for each in (x, w):
        c.room(each.shape, np.dtype(np.float64))
    x, w = x.astype(np.float64), w.astype(np.float64)
    if x_zero is not None:
        x = x - x_zero.astype(np.float64).reshape(())
    if w_zero is not None:
        w = w - along(w_zero.astype(np.float64), 0, w.ndim)
    return conv(c, x, w)


@register("QLinearConv")
def qlinear_conv(c: Context, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b=None):
    sums = _integer_convolution(c, x, w, x_zero, w_zero)
    if b is not None:
        b = along(b.astype(np.float64), 1, sums.ndim)
        c.room_to_spread(sums, b)
        sums = sums + b
    scale = x_scale.astype(np.float64) * w_scale.astype(np.float64) / y_scale.astype(np.float64)
    scale = along(scale, 1, sums.ndim)
    c.room_to_spread(sums, scale)
    y = np.rint(sums * scale) + y_zero.astype(np.float64)
    limits = np.iinfo(y_zero.dtype)
    return np.clip(y, limits.min, limits.max).astype(y_zero.dtype)


# --- pooling ----------------------------------------------------------------------------------


def _pool_windows(c: Context, x):
    kernel = c("kernel_shape")
    if kernel is None or len(kernel) != _dims(c, x):
        raise c.error(f"kernel_shape is {kernel} for an image of {x.ndim - 2} axes")
    stride, dilation, pads = _windows(c, x.shape[2:], kernel)
    image = [size + low + high for size, (low, high) in zip(x.shape[2:], pads, strict=True)]
    c.room((*x.shape[:2], *image), x.dtype)
    outs = _outs(x.shape[2:], kernel, stride, dilation, pads, bool(c("ceil_mode", 0)))
    c.room((*x.shape[:2], *outs), x.dtype, math.prod(kernel))
    return kernel, stride, dilation, pads


def _ours_has(kernel, dilation, pads) -> bool:
    """fastconv's poolings pad by half a window at most."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    return all(max(pair) <= n // 2 for pair, n in zip(pads, reach, strict=True))


def _padded(x, pads, fill, ceil: bool, kernel, stride, dilation):
    """x with its padding written out, and with what the last window of ceil_mode needs."""
    widths = [(0, 0), (0, 0)]
    outs = _outs(x.shape[2:], kernel, stride, dilation, pads, ceil)
    for size, out, k, s, d, (low, high) in zip(
        x.shape[2:], outs, kernel, stride, dilation, pads, strict=True
    ):
        widths.append((low, max(high, (out - 1) * s + d * (k - 1) + 1 - size - low)))
    return np.pad(x, widths, constant_values=fill), widths


@register("MaxPool")
def max_pool(c: Context, x):
    kernel, stride, dilation, pads = _pool_windows(c, x)
    ceil, indices = bool(c("ceil_mode", 0)), len(c.node.outputs) > 1
    function = getattr(F, f"max_pool{len(kernel)}d")
    if _ours_has(kernel, dilation, pads):
        image, around = x, tuple(pads)
        found = function(x, tuple(kernel), tuple(stride), around, tuple(dilation), ceil, indices)
        origin = None
    else:
        image, widths = _padded(x, pads, least(x.dtype), ceil, kernel, stride, dilation)
        found = function(image, tuple(kernel), tuple(stride), 0, tuple(dilation), False, indices)
        origin = [low for low, _ in widths[2:]]
    if not indices:
        return found
    y, at = found
    return y, _flat_indices(at, image.shape, x.shape, origin, bool(c("storage_order", 0)))


def _flat_indices(at, padded, shape, origin, columns_first: bool):
    """Positions in a plane become positions in the whole unpadded tensor."""
    places = list(np.unravel_index(at, padded[2:]))
    if origin is not None:
        places = [place - low for place, low in zip(places, origin, strict=True)]
    sizes = shape[2:]
    if columns_first:
        places, sizes = places[::-1], sizes[::-1]
    plane = np.zeros(at.shape, np.int64)
    for place, size in zip(places, sizes, strict=True):
        plane = plane * size + place
    first = np.arange(math.prod(shape[:2])).reshape(*shape[:2], *[1] * len(sizes))
    return first * math.prod(sizes) + plane


@register("AveragePool")
@wide
def average_pool(c: Context, x):
    kernel, stride, dilation, pads = _pool_windows(c, x)
    ceil, whole = bool(c("ceil_mode", 0)), bool(c("count_include_pad", 0))
    dilated = any(d != 1 for d in dilation)
    function = getattr(F, f"avg_pool{len(kernel)}d")
    if not dilated and _ours_has(kernel, dilation, pads):
        return function(x, tuple(kernel), tuple(stride), tuple(pads), ceil, whole)
    return _sums(c, x, kernel, stride, dilation, pads, ceil) / _counts(
        c, x, kernel, stride, dilation, pads, ceil, whole
    )


def _sums(c: Context, x, kernel, stride, dilation, pads, ceil: bool):
    """Of windows with gaps or with any padding: a depthwise convolution with ones."""
    image, _ = _padded(x, pads, 0, ceil, kernel, stride, dilation)
    c.room((x.shape[1], *kernel), x.dtype)
    ones = np.ones((x.shape[1], 1, *kernel), x.dtype)
    function = getattr(F, f"conv{len(kernel)}d")
    return function(image, ones, None, tuple(stride), 0, tuple(dilation), x.shape[1])


def _counts(c: Context, x, kernel, stride, dilation, pads, ceil: bool, whole: bool) -> np.ndarray:
    """How many elements each window has: an outer product of those along each axis."""
    counts = np.ones((), x.dtype)
    outs = _outs(x.shape[2:], kernel, stride, dilation, pads, ceil)
    for size, out, k, s, d, (low, high) in zip(
        x.shape[2:], outs, kernel, stride, dilation, pads, strict=True
    ):
        c.room((out, k), np.dtype(np.int64))
        taps = np.arange(out)[:, None] * s + np.arange(k) * d - low
        inside = (taps >= -low * whole) & (taps < size + high * whole)
        counts = counts[..., None] * inside.sum(1).astype(x.dtype)
    return counts


@register("LpPool")
def lp_pool(c: Context, x):
    kernel, stride, dilation, pads = _pool_windows(c, x)
    power, ceil = c("p", 2), bool(c("ceil_mode", 0))
    sums = _sums(c, np.abs(x) ** power, kernel, stride, dilation, pads, ceil)
    return sums ** (1 / power)


@register("GlobalAveragePool")
@wide
def global_average_pool(c: Context, x):
    return F.global_avg_pool(x)


@register("GlobalMaxPool")
def global_max_pool(c: Context, x):
    return F.global_max_pool(x)


@register("GlobalLpPool")
def global_lp_pool(c: Context, x):
    power = c("p", 2)
    sums = np.sum(np.abs(x) ** power, axis=tuple(range(2, x.ndim)), keepdims=True)
    return sums ** (1 / power)


@register("MaxUnpool")
def max_unpool(c: Context, x, indices, output_shape=None):
    dims = _dims(c, x)
    kernel = c("kernel_shape")
    stride, _, pads = _windows(c, x.shape[2:], kernel)
    lows = tuple(low for low, _ in pads)
    usual = [
        (size - 1) * s - low - high + k
        for size, s, k, (low, high) in zip(x.shape[2:], stride, kernel, pads, strict=True)
    ]
    size = usual
    if output_shape is not None:
        size = c.constant(output_shape, "output_shape").tolist()[-dims:]
    c.room((*x.shape[:2], *size), x.dtype)
    # Positions are those in a tensor of the usual size, counted through all planes.
    plane = np.unravel_index(indices % math.prod(usual), usual)
    at = np.ravel_multi_index([np.asarray(each) for each in plane], size)
    function = getattr(F, f"max_unpool{dims}d")
    return function(x, at.astype(np.int64), tuple(kernel), tuple(stride), lows, tuple(size))
