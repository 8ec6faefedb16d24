"""ONNX's operators on values: normalisation, products, elementwise functions and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv import _numpy_ops
from fastconv import functional as F
from fastconv.nn.graph import Traced, whole
from fastconv.onnx.budget import ELEMENT
from fastconv.onnx.context import (
    OPERATORS,
    Context,
    Operator,
    along,
    least,
    register,
    register_all,
    wide,
)

# --- normalisation and products ---------------------------------------------------------------


@register("BatchNormalization")
def batch_normalization(c: Context, x, scale, b, mean, var):
    eps = c("epsilon", 1e-5)
    if not c("training_mode", 0):
        return F.batch_norm(x, mean, var, scale, b, eps=eps)
    y = F.batch_norm(x, None, None, scale, b, training=True, eps=eps)
    if len(c.node.outputs) == 1:
        return y
    axes, keep = (0, *range(2, x.ndim)), c("momentum", 0.9)
    own_mean, own_var = np.mean(x, axis=axes), np.var(x, axis=axes)  # ONNX divides by N, not N - 1
    return y, mean * keep + own_mean * (1 - keep), var * keep + own_var * (1 - keep)


@register("InstanceNormalization")
def instance_normalization(c: Context, x, scale, b):
    return F.instance_norm(x, weight=scale, bias=b, eps=c("epsilon", 1e-5))


@register("LayerNormalization")
def layer_normalization(c: Context, x, scale, b=None):
    axis, eps = c("axis", -1) % x.ndim, c("epsilon", 1e-5)
    shape, axes = x.shape[axis:], tuple(range(axis, x.ndim))
    if len(c.node.outputs) == 1:
        b = None if b is None else np.broadcast_to(b, shape)
        return F.layer_norm(x, shape, np.broadcast_to(scale, shape), b, eps)
    c.room_to_spread(x, scale, *([] if b is None else [b]))
    mean = np.mean(x, axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(np.mean((x - mean) ** 2, axis=axes, keepdims=True) + x.dtype.type(eps))
    y = (x - mean) * inverse * scale
    return (y if b is None else y + b), mean, inverse


@register("LRN")
def lrn(c: Context, x):
    """A window of `size` channels, the larger half before an even one's own."""
    size, alpha, beta, bias = c("size"), c("alpha", 1e-4), c("beta", 0.75), c("bias", 1.0)
    if size < 1:
        raise c.error(f"a window of {size} channels")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    widths = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
    c.room((x.shape[0], x.shape[1] + size - 1, *x.shape[2:]), x.dtype, ELEMENT * size)
    if beta == 0.75 and x.dtype in (np.float32, np.float64):
        return _local_response(x, before, after, alpha / size, bias)
    squares = np.pad(x * x, widths)
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    return x / (bias + alpha / size * sums) ** beta


_local_response = whole("local_response", _numpy_ops.local_response)


@register("Gemm")
def gemm(c: Context, a, b, bias=None):
    alpha, beta = c("alpha", 1.0), c("beta", 1.0)
    a = a.T if c("transA", 0) else a
    weight = b if c("transB", 0) else b.T
    c.room((a.shape[0], weight.shape[0]), a.dtype, a.shape[1])
    plain = alpha == beta == 1.0 and np.issubdtype(a.dtype, np.floating)
    if plain and (bias is None or bias.shape == weight.shape[:1]):
        return F.linear(a, weight, bias)
    y = np.matmul(a, weight.T) * np.asarray(alpha, a.dtype)
    if bias is None:
        return y
    c.room_to_spread(y, bias)
    return y + np.asarray(beta, a.dtype) * bias


@register("MatMul")
def matmul(c: Context, a, b):
    several = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c.room((*several, *a.shape[-2:-1], *b.shape[-1:] * (b.ndim > 1)), a.dtype, a.shape[-1])
    if (
        not isinstance(b, Traced)
        and b.ndim == 2
        and a.ndim > 1
        and a.dtype in (np.float32, np.float64)
    ):
        return F.linear(a, b.T)
    return np.matmul(a, b)


# --- elementwise ------------------------------------------------------------------------------


def _broadcast(function: Callable) -> Operator:
    """Two arrays; before opset 7 `axis` said where the smaller one's axes lie."""

    def operator(c: Context, a, b):
        if c.opset < 7 and c("broadcast", 0) and c("axis") is not None:
            b = b.reshape(*b.shape, *[1] * (a.ndim - c("axis") % a.ndim - b.ndim))
        c.room_to_spread(a, b)
        return function(a, b)

    return operator


def _div(a, b):
    """Of integers, towards zero, as C does it."""
    if not np.issubdtype(a.dtype, np.integer):
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    return quotient + ((a % b != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _modulo(c: Context, a, b):
    c.room_to_spread(a, b)
    return np.fmod(a, b) if c("fmod", 0) else np.mod(a, b)


def _power(a, b):
    return np.power(a, b).astype(a.dtype)


register_all(
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


register_all(
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
            c.room_to_spread(first, other)
            first = function(first, other)
        return first

    return operator


register_all(_fold, {"Sum": np.add, "Max": np.maximum, "Min": np.minimum})


@register("Mean")
def mean(c: Context, *arrays):
    return OPERATORS["Sum"](c, *arrays) / len(arrays)


@register("Erf")
@wide
def erf(c: Context, x):
    # the engine takes whatever it is given for one of these
    if x.dtype not in (np.float32, np.float64):
        raise c.error(f"values of type {x.dtype}")
    return _erf(x)


_erf = whole("erf", lambda x: _numpy_ops.activate("erf", (), x)[0])


@register("Gelu")
def gelu(c: Context, x):
    return F.gelu(x, c("approximate", "none"))


@register("LeakyRelu")
def leaky_relu(c: Context, x):
    return F.leaky_relu(x, c("alpha", 0.01))


@register("PRelu")
def prelu(c: Context, x, slope):
    if slope.ndim == 1 and slope.size == x.shape[1] and c.opset < 9:
        slope = along(slope, 1, x.ndim)  # it was one a channel, before it was broadcast
    c.room_to_spread(x, slope)
    return np.where(x < 0, x * slope, x)


@register("Elu")
def elu(c: Context, x):
    return F.elu(x, c("alpha", 1.0))


@register("Selu")
def selu(c: Context, x):
    gamma, alpha = (
        c("gamma", 1.0507009873554804934193349852946),
        c("alpha", 1.6732632423543772848170429916717),
    )
    return x.dtype.type(gamma) * F.elu(x, alpha)


@register("Celu")
def celu(c: Context, x):
    alpha = x.dtype.type(c("alpha", 1.0))
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


@register("ThresholdedRelu")
def thresholded_relu(c: Context, x):
    return np.where(x > x.dtype.type(c("alpha", 1.0)), x, x.dtype.type(0))


@register("HardSigmoid")
def hard_sigmoid(c: Context, x):
    alpha, beta = x.dtype.type(c("alpha", 0.2)), x.dtype.type(c("beta", 0.5))
    return np.clip(x * alpha + beta, x.dtype.type(0), x.dtype.type(1))


@register("Clip")
def clip(c: Context, x, low=None, high=None):
    low = c("min") if low is None else low
    high = c("max") if high is None else high
    for bound in (low, high):
        if isinstance(bound, Traced):
            c.room_to_spread(x, bound)
    if low is None and high is None:
        return x
    low, high = (
        each if each is None or isinstance(each, Traced) else np.asarray(each, x.dtype).reshape(())
        for each in (low, high)
    )
    return np.clip(x, low, high)


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


@register("Where")
def where(c: Context, condition, x, y):
    c.room_to_spread(condition, x, y)
    return np.where(condition, x, y)


@register("Dropout")
def dropout(c: Context, x, ratio=None, training=None):
    if training is not None and c.constant(training, "training_mode"):
        raise c.error("training_mode")
    return (x, np.ones(x.shape, bool)) if len(c.node.outputs) > 1 else x


# --- reductions -------------------------------------------------------------------------------


def _reduce(function: Callable) -> Operator:
    def operator(c: Context, x, axes=None):
        axes = c.ints(axes, "axes")
        if not axes and c("noop_with_empty_axes", 0):
            return x
        axes = tuple(range(x.ndim)) if not axes else tuple(axis % x.ndim for axis in axes)
        return function(x, axes, bool(c("keepdims", 1)))

    return operator


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


def _mean(x, axis, keepdims):
    image = 3 <= x.ndim <= 5 and x.dtype in (np.float32, np.float64) and keepdims
    if image and axis == tuple(range(2, x.ndim)) and 0 not in x.shape:
        return F.global_avg_pool(x)
    return np.mean(x, axis=axis, keepdims=keepdims).astype(x.dtype)


register_all(
    _reduce,
    {
        "ReduceSum": _sum,
        "ReduceMean": _mean,
        "ReduceMax": lambda x, axis, keep: np.max(x, axis, keepdims=keep, initial=least(x.dtype)),
        "ReduceMin": lambda x, axis, keep: np.min(x, axis, keepdims=keep, initial=_most(x.dtype)),
        "ReduceProd": lambda x, axis, keep: np.prod(x, axis=axis, keepdims=keep, dtype=x.dtype),
        "ReduceL1": lambda x, axis, keep: _sum(np.abs(x), axis, keep),
        "ReduceL2": lambda x, axis, keep: np.sqrt(_sum(x * x, axis, keep)),
        "ReduceSumSquare": lambda x, axis, keep: _sum(x * x, axis, keep),
        "ReduceLogSum": lambda x, axis, keep: np.log(_sum(x, axis, keep)),
        "ReduceLogSumExp": _log_sum_exp,
    },
)


@register("CumSum")
def cumulative_sum(c: Context, x, axis):
    axis = int(c.constant(axis, "axis").reshape(())) % x.ndim
    c.room(x.shape, x.dtype)
    if c("reverse", 0):
        x = np.flip(x, axis)
    if c("exclusive", 0):
        x = F.pad(x, (*[0, 0] * (x.ndim - 1 - axis), 1, -1))
    sums = np.cumsum(x, axis=axis, dtype=x.dtype)
    return np.flip(sums, axis) if c("reverse", 0) else sums


def _arg(function: Callable) -> Operator:
    def operator(c: Context, x):
        axis, keep = c("axis", 0), bool(c("keepdims", 1))
        if not c("select_last_index", 0):
            return np.expand_dims(function(x, axis=axis), axis) if keep else function(x, axis=axis)
        found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
        return np.expand_dims(found, axis) if keep else found

    return operator


OPERATORS |= {"ArgMax": _arg(np.argmax), "ArgMin": _arg(np.argmin)}
