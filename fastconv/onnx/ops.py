"""ONNX's operators on arrays: `OPERATORS[op](context, *inputs)` gives the outputs.

Each is a few lines of fastconv's functions and of NumPy, written from the operator's definition in the
ONNX standard (github.com/onnx/onnx, docs/Operators.md). Convolution, pooling and activations are
fastconv's; everything else may be as slow as NumPy is. Inputs may be arrays that are being recorded
(fastconv.nn.graph), so a function asks them for shapes and types, and hands them on; only where an
operator needs values, such as a new shape, does it take them with `constant`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.nn.graph import Traced
from fastconv.onnx import resizing
from fastconv.onnx.model import Node
from fastconv.onnx.tensors import TYPES
from fastconv.onnx.wire import DependsOnValues, ModelError


class Context:
    """A node on its way: its attributes, with their defaults where they are asked for."""

    def __init__(self, node: Node, opset: int) -> None:
        self.node, self.opset, self.attributes = node, opset, node.attributes

    def __call__(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def constant(self, value: Any, what: str) -> np.ndarray:
        """The values of an input that decides about shapes. DependsOnValues: it is being recorded."""
        if isinstance(value, Traced):
            raise DependsOnValues(f"{self.node.op} {self.node.name!r}: {what}")
        return np.asarray(value)

    def ints(self, value: Any, name: str) -> list[int] | None:
        """Integers that were an attribute in older opsets and are an input in newer ones."""
        if value is None:
            value = self(name)
        return None if value is None else [int(each) for each in self.constant(value, name).ravel()]

    def error(self, text: str) -> ModelError:
        """For what this node asks and is not supported."""
        return ModelError(f"{self.node.op} {self.node.name!r}: {text}")


Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}


def _op(*names: str) -> Callable[[Operator], Operator]:
    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _all(wrap: Callable[[Callable], Operator], functions: dict[str, Callable]) -> None:
    """A row of the table for each function, made an operator in the same way."""
    OPERATORS.update({op: wrap(function) for op, function in functions.items()})


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


def _dims(c: Context, x: Any) -> int:
    if not 3 <= x.ndim <= 5:
        raise c.error(f"an image of {x.ndim - 2} axes; 1 to 3 are supported")
    return x.ndim - 2


def _wide(function: Operator) -> Operator:
    """Half floats are computed as float32 and rounded once."""

    def operator(c: Context, x, *others):
        if x.dtype != np.float16:
            return function(c, x, *others)
        others = [None if each is None else each.astype(np.float32) for each in others]
        return function(c, x.astype(np.float32), *others).astype(np.float16)

    return operator


@_op("Conv")
@_wide
def conv(c: Context, x, w, b=None):
    dims = _dims(c, x)
    stride, dilation, pads = _windows(c, x.shape[2:], w.shape[2:])
    function = getattr(F, f"conv{dims}d")
    return function(x, w, b, tuple(stride), tuple(pads), tuple(dilation), c("group", 1))


@_op("ConvTranspose")
@_wide
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


def _along(values: Any, axis: int, ndim: int) -> Any:
    """One value an index of an axis, shaped so that it spreads over the others."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _scales(c: Context, values: Any, x: Any) -> Any:
    """Of a quantisation: one for all, one an index of an axis, or one a block along it."""
    axis, block = c("axis", 1), c("block_size", 0)
    if not block:
        return _along(values, axis, x.ndim)
    whole = np.repeat(values, block, axis=axis)
    return whole[(slice(None),) * (axis % x.ndim) + (slice(x.shape[axis]),)]


@_op("QuantizeLinear")
def quantize_linear(c: Context, x, scale, zero=None):
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    if zero is None and c("output_dtype", 0):
        kind = TYPES[c("output_dtype")]
    y = np.rint(x / _scales(c, scale, x))
    if zero is not None:
        y = y + _scales(c, zero, x).astype(np.float32)
    limits = np.iinfo(kind)
    return np.clip(y, limits.min, limits.max).astype(kind)


@_op("DequantizeLinear")
def dequantize_linear(c: Context, x, scale, zero=None):
    y = x.astype(np.int32)
    if zero is not None:
        y = y - _scales(c, zero, x).astype(np.int32)
    return y.astype(scale.dtype) * _scales(c, scale, x)


@_op("ConvInteger")
def conv_integer(c: Context, x, w, x_zero=None, w_zero=None):
    return _integer_convolution(c, x, w, x_zero, w_zero).astype(np.int32)


def _integer_convolution(c: Context, x, w, x_zero, w_zero):
    """In float64, whose 53 bits hold every sum of such products: at most 2^16 each, 2^37 of them."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    if x_zero is not None:
        x = x - x_zero.astype(np.float64).reshape(())
    if w_zero is not None:
        w = w - _along(w_zero.astype(np.float64), 0, w.ndim)
    return conv(c, x, w)


@_op("QLinearConv")
def qlinear_conv(c: Context, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b=None):
    sums = _integer_convolution(c, x, w, x_zero, w_zero)
    if b is not None:
        sums = sums + _along(b.astype(np.float64), 1, sums.ndim)
    scale = x_scale.astype(np.float64) * w_scale.astype(np.float64) / y_scale.astype(np.float64)
    y = np.rint(sums * _along(scale, 1, sums.ndim)) + y_zero.astype(np.float64)
    limits = np.iinfo(y_zero.dtype)
    return np.clip(y, limits.min, limits.max).astype(y_zero.dtype)


# --- pooling ----------------------------------------------------------------------------------


def _pool_windows(c: Context, x):
    kernel = c("kernel_shape")
    if kernel is None or len(kernel) != _dims(c, x):
        raise c.error(f"kernel_shape is {kernel} for an image of {x.ndim - 2} axes")
    return (kernel, *_windows(c, x.shape[2:], kernel))


def _ours_has(kernel, dilation, pads) -> bool:
    """fastconv's poolings pad as PyTorch's: alike on both sides, at most half a window."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    return all(low == high <= n // 2 for (low, high), n in zip(pads, reach, strict=True))


def _padded(x, pads, fill, ceil: bool, kernel, stride, dilation):
    """x with its padding written out, and with what the last window of ceil_mode needs."""
    widths = [(0, 0), (0, 0)]
    for size, k, s, d, (low, high) in zip(x.shape[2:], kernel, stride, dilation, pads, strict=True):
        reach = d * (k - 1) + 1
        out = (size + low + high - reach + (s - 1) * ceil) // s + 1
        if ceil and (out - 1) * s >= size + low:
            out -= 1
        widths.append((low, max(high, (out - 1) * s + reach - size - low)))
    return np.pad(x, widths, constant_values=fill), widths


@_op("MaxPool")
def max_pool(c: Context, x):
    kernel, stride, dilation, pads = _pool_windows(c, x)
    ceil, indices = bool(c("ceil_mode", 0)), len(c.node.outputs) > 1
    function = getattr(F, f"max_pool{len(kernel)}d")
    if _ours_has(kernel, dilation, pads):
        lows, image = tuple(low for low, _ in pads), x
        found = function(x, tuple(kernel), tuple(stride), lows, tuple(dilation), ceil, indices)
        origin = None
    else:
        image, widths = _padded(x, pads, _least(x.dtype), ceil, kernel, stride, dilation)
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


@_op("AveragePool")
@_wide
def average_pool(c: Context, x):
    kernel, stride, dilation, pads = _pool_windows(c, x)
    ceil, whole = bool(c("ceil_mode", 0)), bool(c("count_include_pad", 0))
    dilated = any(d != 1 for d in dilation)
    function = getattr(F, f"avg_pool{len(kernel)}d")
    if not dilated and _ours_has(kernel, dilation, pads):
        lows = tuple(low for low, _ in pads)
        return function(x, tuple(kernel), tuple(stride), lows, ceil, whole)
    return _sums(c, x, kernel, stride, dilation, pads, ceil) / _counts(
        x, kernel, stride, dilation, pads, ceil, whole
    )


def _sums(c: Context, x, kernel, stride, dilation, pads, ceil: bool):
    """Of windows with gaps or with any padding: a depthwise convolution with ones."""
    image, _ = _padded(x, pads, 0, ceil, kernel, stride, dilation)
    ones = np.ones((x.shape[1], 1, *kernel), x.dtype)
    function = getattr(F, f"conv{len(kernel)}d")
    return function(image, ones, None, tuple(stride), 0, tuple(dilation), x.shape[1])


def _counts(x, kernel, stride, dilation, pads, ceil: bool, whole: bool) -> np.ndarray:
    """How many elements each window has: an outer product of those along each axis."""
    counts = np.ones((), x.dtype)
    for size, k, s, d, (low, high) in zip(x.shape[2:], kernel, stride, dilation, pads, strict=True):
        row = np.zeros((1, 1, size))
        padded, _ = _padded(row, [(low, high)], 0, ceil, [k], [s], [d])
        outs = (padded.shape[2] - d * (k - 1) - 1) // s + 1
        taps = np.arange(outs)[:, None] * s + np.arange(k) * d - low
        inside = (taps >= -low * whole) & (taps < size + high * whole)
        counts = counts[..., None] * inside.sum(1).astype(x.dtype)
    return counts


@_op("LpPool")
def lp_pool(c: Context, x):
    kernel, stride, dilation, pads = _pool_windows(c, x)
    power, ceil = c("p", 2), bool(c("ceil_mode", 0))
    sums = _sums(c, np.abs(x) ** power, kernel, stride, dilation, pads, ceil)
    return sums ** (1 / power)


@_op("GlobalAveragePool")
@_wide
def global_average_pool(c: Context, x):
    return F.global_avg_pool(x)


@_op("GlobalMaxPool")
def global_max_pool(c: Context, x):
    return F.global_max_pool(x)


@_op("GlobalLpPool")
def global_lp_pool(c: Context, x):
    power = c("p", 2)
    sums = np.sum(np.abs(x) ** power, axis=tuple(range(2, x.ndim)), keepdims=True)
    return sums ** (1 / power)


@_op("MaxUnpool")
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
    # Positions are those in a tensor of the usual size, counted through all planes.
    plane = np.unravel_index(indices % math.prod(usual), usual)
    at = np.ravel_multi_index([np.asarray(each) for each in plane], size)
    function = getattr(F, f"max_unpool{dims}d")
    return function(x, at.astype(np.int64), tuple(kernel), tuple(stride), lows, tuple(size))


# --- normalisation and products ---------------------------------------------------------------


@_op("BatchNormalization")
def batch_normalization(c: Context, x, scale, b, mean, var):
    if c("training_mode", 0):
        raise c.error("training_mode")
    return F.batch_norm(x, mean, var, scale, b, eps=c("epsilon", 1e-5))


@_op("InstanceNormalization")
def instance_normalization(c: Context, x, scale, b):
    return F.instance_norm(x, weight=scale, bias=b, eps=c("epsilon", 1e-5))


@_op("LayerNormalization")
def layer_normalization(c: Context, x, scale, b=None):
    axis, eps = c("axis", -1) % x.ndim, c("epsilon", 1e-5)
    shape, axes = x.shape[axis:], tuple(range(axis, x.ndim))
    if len(c.node.outputs) == 1:
        b = None if b is None else np.broadcast_to(b, shape)
        return F.layer_norm(x, shape, np.broadcast_to(scale, shape), b, eps)
    mean = np.mean(x, axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(np.mean((x - mean) ** 2, axis=axes, keepdims=True) + x.dtype.type(eps))
    y = (x - mean) * inverse * scale
    return (y if b is None else y + b), mean, inverse


@_op("LRN")
def lrn(c: Context, x):
    """A window of `size` channels, the larger half before an even one's own."""
    size, alpha, beta, bias = c("size"), c("alpha", 1e-4), c("beta", 0.75), c("bias", 1.0)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    widths = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
    squares = np.pad(x * x, widths)
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    return x / (bias + alpha / size * sums) ** beta


@_op("Gemm")
def gemm(c: Context, a, b, bias=None):
    alpha, beta = c("alpha", 1.0), c("beta", 1.0)
    a = a.T if c("transA", 0) else a
    weight = b if c("transB", 0) else b.T
    plain = alpha == beta == 1.0 and np.issubdtype(a.dtype, np.floating)
    if plain and (bias is None or bias.shape == weight.shape[:1]):
        return F.linear(a, weight, bias)
    y = np.matmul(a, weight.T) * np.asarray(alpha, a.dtype)
    return y if bias is None else y + np.asarray(beta, a.dtype) * bias


@_op("MatMul")
def matmul(c: Context, a, b):
    return np.matmul(a, b)


# --- elementwise ------------------------------------------------------------------------------


def _broadcast(function: Callable) -> Operator:
    """Two arrays; before opset 7 `axis` said where the smaller one's axes lie."""

    def operator(c: Context, a, b):
        if c.opset < 7 and c("broadcast", 0) and c("axis") is not None:
            b = b.reshape(*b.shape, *[1] * (a.ndim - c("axis") % a.ndim - b.ndim))
        return function(a, b)

    return operator


def _div(a, b):
    """Of integers, towards zero, as C does it."""
    if not np.issubdtype(a.dtype, np.integer):
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    return quotient + ((a % b != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _modulo(c: Context, a, b):
    return np.fmod(a, b) if c("fmod", 0) else np.mod(a, b)


def _power(a, b):
    return np.power(a, b).astype(a.dtype)


_all(
    _broadcast,
    {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": _div,
        "Pow": _power,
        "And": np.logical_and,
        "Or": np.logical_or,
        "Xor": np.logical_xor,
        "Equal": np.equal,
        "Less": np.less,
        "Greater": np.greater,
        "LessOrEqual": np.less_equal,
        "GreaterOrEqual": np.greater_equal,
    },
)
OPERATORS["Mod"] = _modulo


def _each(function: Callable) -> Operator:
    """fastconv's functions are looked up at the call, as recording exchanges them."""
    return lambda c, x: function(x)


_all(
    _each,
    {
        "Abs": np.abs,
        "Neg": np.negative,
        "Exp": np.exp,
        "Log": np.log,
        "Sqrt": np.sqrt,
        "Floor": np.floor,
        "Ceil": np.ceil,
        "Round": np.rint,
        "Sign": np.sign,
        "Sin": np.sin,
        "Cos": np.cos,
        "Tan": np.tan,
        "Not": np.logical_not,
        "IsNaN": np.isnan,
        "Identity": lambda x: x,
        "Reciprocal": lambda x: 1 / x,
        "Softsign": lambda x: x / (1 + np.abs(x)),
        "Relu": lambda x: F.relu(x),
        "Sigmoid": lambda x: F.sigmoid(x),
        "Tanh": lambda x: F.tanh(x),
        "Softplus": lambda x: F.softplus(x),
        "HardSwish": lambda x: F.hardswish(x),
        "Mish": lambda x: x * F.tanh(F.softplus(x)),
    },
)


def _fold(function: Callable) -> Operator:
    """Any number of arrays, from the left."""

    def operator(c: Context, first, *others):
        for other in others:
            first = function(first, other)
        return first

    return operator


_all(_fold, {"Sum": np.add, "Max": np.maximum, "Min": np.minimum})


@_op("Mean")
def mean(c: Context, *arrays):
    return OPERATORS["Sum"](c, *arrays) / len(arrays)


@_op("Erf")
def erf(c: Context, x):
    """From gelu(z) = z/2 (1 + erf(z/sqrt 2)), and near zero, where that cancels, its series."""
    near = np.abs(x) < 0.25
    z = np.where(near, np.ones((), x.dtype), x) * x.dtype.type(math.sqrt(2))
    far = 2 * F.gelu(z) / z - 1
    q = x * x
    series = (
        x
        * (2 / math.sqrt(math.pi))
        * sum((-1) ** n / (math.factorial(n) * (2 * n + 1)) * q**n for n in range(9))
    )
    return np.where(near, series, far).astype(x.dtype)


@_op("Gelu")
def gelu(c: Context, x):
    return F.gelu(x, c("approximate", "none"))


@_op("LeakyRelu")
def leaky_relu(c: Context, x):
    return F.leaky_relu(x, c("alpha", 0.01))


@_op("PRelu")
def prelu(c: Context, x, slope):
    if slope.ndim == 1 and slope.size == x.shape[1] and c.opset < 9:
        slope = _along(slope, 1, x.ndim)  # it was one a channel, before it was broadcast
    return np.where(x < 0, x * slope, x)


@_op("Elu")
def elu(c: Context, x):
    return F.elu(x, c("alpha", 1.0))


@_op("Selu")
def selu(c: Context, x):
    gamma, alpha = (
        c("gamma", 1.0507009873554804934193349852946),
        c("alpha", 1.6732632423543772848170429916717),
    )
    return x.dtype.type(gamma) * F.elu(x, alpha)


@_op("HardSigmoid")
def hard_sigmoid(c: Context, x):
    alpha, beta = x.dtype.type(c("alpha", 0.2)), x.dtype.type(c("beta", 0.5))
    return np.clip(x * alpha + beta, x.dtype.type(0), x.dtype.type(1))


@_op("Clip")
def clip(c: Context, x, low=None, high=None):
    low = c("min") if low is None else low
    high = c("max") if high is None else high
    for bound, function in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            bound = bound if isinstance(bound, Traced) else np.asarray(bound, x.dtype).reshape(())
            x = function(x, bound)
    return x


def _softmax(function: Callable) -> Operator:
    """Before opset 13 over everything from an axis on, as one row."""

    def operator(c: Context, x):
        if c.opset >= 13:
            return function(x, c("axis", -1))
        axis = c("axis", 1) % max(x.ndim, 1)
        rows = x.reshape(math.prod(x.shape[:axis]), -1)
        return function(rows, 1).reshape(x.shape)

    return operator


OPERATORS |= {
    "Softmax": _softmax(lambda x, axis: F.softmax(x, axis)),
    "LogSoftmax": _softmax(lambda x, axis: F.log_softmax(x, axis)),
}


@_op("Where")
def where(c: Context, condition, x, y):
    return np.where(condition, x, y)


@_op("Dropout")
def dropout(c: Context, x, ratio=None, training=None):
    if training is not None and c.constant(training, "training_mode"):
        raise c.error("training_mode")
    return (x, np.ones(x.shape, bool)) if len(c.node.outputs) > 1 else x


# --- shapes -----------------------------------------------------------------------------------


@_op("Concat")
def concat(c: Context, *arrays):
    return np.concatenate(arrays, axis=c("axis", 1))


@_op("Split")
def split(c: Context, x, sizes=None):
    axis, n = c("axis", 0), len(c.node.outputs)
    sizes = c.ints(sizes, "split")
    if sizes is None:
        each = -(-x.shape[axis] // n)
        sizes = [each] * (n - 1) + [x.shape[axis] - each * (n - 1)]
    if sum(sizes) != x.shape[axis] or min(sizes) < 0 or len(sizes) != n:
        raise c.error(f"{n} parts of {sizes} of an axis of {x.shape[axis]}")
    bounds = np.cumsum([0, *sizes]).tolist()
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(a, b))] for a, b in zip(bounds, bounds[1:], strict=False))


@_op("Slice")
def slice_(c: Context, x, starts=None, ends=None, axes=None, steps=None):
    starts, ends = c.ints(starts, "starts"), c.ints(ends, "ends")
    axes, steps = c.ints(axes, "axes"), c.ints(steps, "steps")
    key = [slice(None)] * x.ndim
    axes = list(range(len(starts))) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        size = x.shape[axis]
        # Far ends stand for "all"; below the first element a negative step needs None.
        end = None if step < 0 and end < -size else end
        key[axis] = slice(start, end, step)
    return x[tuple(key)]


@_op("Gather")
def gather(c: Context, x, indices):
    return np.take(x, indices, axis=c("axis", 0))


@_op("Reshape")
def reshape(c: Context, x, shape=None):
    sizes = c.ints(shape, "shape")
    if not c("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(*sizes) if sizes else x.reshape(())


@_op("Flatten")
def flatten(c: Context, x):
    axis = c("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@_op("Transpose")
def transpose(c: Context, x):
    return np.transpose(x, c("perm"))


@_op("Squeeze")
def squeeze(c: Context, x, axes=None):
    axes = c.ints(axes, "axes")
    return np.squeeze(x, None if axes is None else tuple(axes))


@_op("Unsqueeze")
def unsqueeze(c: Context, x, axes=None):
    return np.expand_dims(x, tuple(c.ints(axes, "axes")))


@_op("Expand")
def expand(c: Context, x, shape):
    wanted = np.broadcast_shapes(x.shape, tuple(c.ints(shape, "shape")))
    return np.broadcast_to(x, wanted)


@_op("Tile")
def tile(c: Context, x, repeats):
    return np.tile(x, c.ints(repeats, "repeats"))


@_op("Shape")
def shape_(c: Context, x):
    return np.array(x.shape[slice(c("start", 0), c("end"))], np.int64)


@_op("Size")
def size_(c: Context, x):
    return np.array(math.prod(x.shape), np.int64)


@_op("Constant")
def constant(c: Context):
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints", "value_string"):
        value = c(name)
        if value is not None:
            kinds = {"value": None, "value_string": object}
            kind = kinds.get(name, np.float32 if "float" in name else np.int64)
            return np.asarray(value, kind)
    raise c.error(f"a value of kind {[*c.attributes]}")


@_op("ConstantOfShape")
def constant_of_shape(c: Context, shape):
    value = c("value", np.zeros(1, np.float32))
    return np.full(tuple(c.ints(shape, "shape")), value.reshape(()), value.dtype)


@_op("Range")
def range_(c: Context, start, limit, delta):
    start, limit, delta = (c.constant(each, "an argument") for each in (start, limit, delta))
    n = max(0, math.ceil((limit - start) / delta))
    return (start + np.arange(n) * delta).astype(start.dtype)


@_op("Cast")
def cast(c: Context, x):
    if c("to") not in TYPES:
        raise c.error(f"to type {c('to')}")
    return x.astype(TYPES[c("to")])


@_op("CastLike")
def cast_like(c: Context, x, like):
    return x.astype(like.dtype)


@_op("Pad")
def pad(c: Context, x, pads=None, value=None, axes=None):
    modes = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    mode = c("mode", "constant")
    if mode not in modes:
        raise c.error(f"mode is {mode!r}")
    pads, axes = c.ints(pads, "pads"), c.ints(axes, "axes")
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    widths = [(0, 0)] * x.ndim
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        widths[axis] = (low, high)
    key = tuple(
        slice(max(0, -a), size - max(0, -b)) for (a, b), size in zip(widths, x.shape, strict=True)
    )
    x, widths = x[key], [(max(0, a), max(0, b)) for a, b in widths]
    if mode != "constant":
        return np.pad(x, widths, modes[mode])
    fill = c("value", 0) if value is None else c.constant(value, "constant_value").reshape(-1)
    return np.pad(
        x, widths, constant_values=np.asarray(fill, x.dtype).reshape(-1)[0] if np.size(fill) else 0
    )


@_op("Resize", "Upsample")
def resize(c: Context, x, *inputs):
    """Opset 10 and Upsample: (x, scales); later: (x, roi, scales, sizes)."""
    roi, scales, sizes = None, None, None
    if c.node.op == "Upsample" or c.opset < 11:
        scales = inputs[0] if inputs else np.asarray(c("scales"), np.float32)
    else:
        roi, scales, sizes = (*inputs, None, None, None)[:3]
    numbers = []
    for value, what in ((roi, "roi"), (scales, "scales"), (sizes, "sizes")):
        value = None if value is None else c.constant(value, what)
        numbers.append(None if value is None or value.size == 0 else value.tolist())
    how = dict(c.attributes)
    if c.node.op == "Upsample" or c.opset < 11:
        how |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return resizing.resize(x, *numbers, how)


@_op("DepthToSpace")
def depth_to_space(c: Context, x):
    n, depth, h, w = x.shape
    b = c("blocksize")
    if c("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    y = x.reshape(n, b, b, depth // (b * b), h, w)
    return np.transpose(y, (0, 3, 4, 1, 5, 2)).reshape(n, depth // (b * b), h * b, w * b)


@_op("SpaceToDepth")
def space_to_depth(c: Context, x):
    n, depth, h, w = x.shape
    b = c("blocksize")
    if c("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, b)
    y = x.reshape(n, depth, h // b, b, w // b, b)
    return np.transpose(y, (0, 3, 5, 1, 2, 4)).reshape(n, depth * b * b, h // b, w // b)


# --- reductions -------------------------------------------------------------------------------


def _reduce(function: Callable) -> Operator:
    def operator(c: Context, x, axes=None):
        axes = c.ints(axes, "axes")
        if not axes and c("noop_with_empty_axes", 0):
            return x
        axes = tuple(range(x.ndim)) if not axes else tuple(axis % x.ndim for axis in axes)
        return function(x, axes, bool(c("keepdims", 1)))

    return operator


def _least(kind: np.dtype) -> Any:
    """What the largest of nothing is."""
    if kind.kind == "b":
        return False
    return -np.inf if kind.kind == "f" else np.iinfo(kind).min


def _most(kind: np.dtype) -> Any:
    """What the smallest of nothing is."""
    if kind.kind == "b":
        return True
    return np.inf if kind.kind == "f" else np.iinfo(kind).max


def _log_sum_exp(x, axis, keepdims):
    largest = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    largest = np.where(np.isfinite(largest), largest, 0)
    sums = np.log(np.sum(np.exp(x - largest), axis=axis, keepdims=True)) + largest
    return sums if keepdims else np.squeeze(sums, axis)


def _sum(x, axis, keepdims):
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


_all(
    _reduce,
    {
        "ReduceSum": _sum,
        "ReduceMean": lambda x, axis, keep: np.mean(x, axis=axis, keepdims=keep).astype(x.dtype),
        "ReduceMax": lambda x, axis, keep: np.max(x, axis, keepdims=keep, initial=_least(x.dtype)),
        "ReduceMin": lambda x, axis, keep: np.min(x, axis, keepdims=keep, initial=_most(x.dtype)),
        "ReduceProd": lambda x, axis, keep: np.prod(x, axis=axis, keepdims=keep, dtype=x.dtype),
        "ReduceL1": lambda x, axis, keep: _sum(np.abs(x), axis, keep),
        "ReduceL2": lambda x, axis, keep: np.sqrt(_sum(x * x, axis, keep)),
        "ReduceSumSquare": lambda x, axis, keep: _sum(x * x, axis, keep),
        "ReduceLogSum": lambda x, axis, keep: np.log(_sum(x, axis, keep)),
        "ReduceLogSumExp": _log_sum_exp,
    },
)


def _arg(function: Callable) -> Operator:
    def operator(c: Context, x):
        axis, keep = c("axis", 0), bool(c("keepdims", 1))
        if not c("select_last_index", 0):
            return np.expand_dims(function(x, axis=axis), axis) if keep else function(x, axis=axis)
        found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
        return np.expand_dims(found, axis) if keep else found

    return operator


OPERATORS |= {"ArgMax": _arg(np.argmax), "ArgMin": _arg(np.argmin)}
