"""The operations as functions on arrays: a signature, a docstring, a call of judge and door.

Names, positional order, defaults and meaning are those of `torch.nn.functional`; what is more is
keyword-only. Arrays may have any strides, be read-only, unaligned or byte-swapped. Where it is not
said otherwise an input may lack the batch axis, and then the result lacks it too; an empty batch
gives an empty result.

Errors, for every function: TypeError for the wrong kind of object or element type, ValueError for a
wrong value or shape, MemoryError where memory is refused; all before anything is written.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from . import _arguments, _core, _numpy_ops

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "global_avg_pool",
    "global_max_pool",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "pad",
    "interpolate",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "unfold",
    "fold",
    "batch_norm",
    "instance_norm",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "softmax",
    "log_softmax",
    "dropout",
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "elu",
    "silu",
    "gelu",
    "sigmoid",
    "tanh",
    "hardsigmoid",
    "hardswish",
    "softplus",
    "from_hwio",
    "from_keras_depthwise",
]

Ints = int | tuple[int, ...]
Padding = int | str | tuple
Activation = str | tuple | None


def _delivered(result, out):
    """`out`, if given, with what was computed; `result` may be a stand-in for it."""
    if out is None or result is out:
        return result
    out[...] = result
    return out


def _convolve(op, dims, transposed, residual, after, input, weight, bias, *options):
    given = options if residual is None and after is False else (*options, after)
    result = _core.again(op, input, weight, bias, given, None, residual)
    if result is not None:
        return result
    problem, x, w, b, y, result, r = _arguments.convolution(
        op, dims, transposed, input, weight, bias, *options, residual, after
    )
    if y.size:
        plan, taken = _core.conv(problem, x, w, b, y, None, r), (x, w, b, r)
        _core.remember(plan, result, taken, op, input, weight, bias, given, None, residual)
    return _delivered(result, options[-1])


def _pool(judge, op, input, *options, out=None):
    """op: (name, dims, kind), with which the judge's arguments begin."""
    result = _core.again(op, input, None, None, options) if out is None else None
    if result is not None:
        return result
    given = {} if out is None else {"out": out}
    problem, x, y, indices, result, positions = judge(*op, input, *options, **given)
    if y.size and _arguments.float_kind(y.dtype) is None:
        _numpy_ops.pool(problem, x, y, indices)
    elif y.size:
        plan = _core.pool(problem, x, y, indices)
        if out is None and positions is None:
            _core.remember(plan, result, (x, None, None), op, input, None, None, options)
    result = _delivered(result, out)
    return result if positions is None else (result, positions)


# --- convolution --------------------------------------------------------------------------------


def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str | None = None,
    activation: Activation = None,
    layout: str | None = None,
    residual: NDArray | None = None,
    residual_after: bool = False,
    out: NDArray | None = None,
) -> NDArray:
    """Cross-correlation of (N, C, L) with a weight (O, C/groups, K).

    Returns (N, O, oL), each size (L + low + high - dilation*(K - 1) - 1) // stride + 1.
    Everything else as in `conv2d`; layout "NHWC" means (N, L, C).
    """
    return _convolve(
        "conv1d", 1, False, residual, residual_after, input, weight, bias,
        stride, padding, 0, dilation, groups, algorithm, activation, layout, out,
    )  # fmt: skip


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str | None = None,
    activation: Activation = None,
    layout: str | None = None,
    residual: NDArray | None = None,
    residual_after: bool = False,
    out: NDArray | None = None,
) -> NDArray:
    """Cross-correlation of (N, C, H, W) with a weight (O, C/groups, kH, kW).

    Returns (N, O, oH, oW), each size (L + low + high - dilation*(K - 1) - 1) // stride + 1.

    padding: an int, an int per axis, a (low, high) pair per axis, "valid", or "same"
        (ceil(L / stride) outputs, the odd zero at the end; "same_lower": at the beginning).
    groups: inputs and outputs are split into so many groups that do not see each other; with
        groups = C this is depthwise convolution, with O / C filters for each channel.
    algorithm: one of `fastconv.algorithms()`; raises ValueError where it cannot do the problem.
        None leaves the choice to `using(algorithm=)`, "auto" to the problem.
    activation: applied to the result: a name such as "relu", or (name, *parameters).
    layout: "NCHW", or "NHWC" for (N, H, W, C) in and out. The weight is OIHW in both.
    residual: an array of the result's shape and type, added on the way: the result has the bits of
        activation(conv2d(x, w, b) + residual), or, with residual_after=True, of
        activation(conv2d(x, w, b)) + residual. It may be `out`.
    out: an array for the result, used in place; it may overlap the inputs.

    Element types: float32 and float64; mixed ones give `np.result_type`. Lists and integer arrays
    as weight or bias take the input's type. Integer inputs are a TypeError, for they would hide
    where rounding begins: convert them with `x.astype(np.float32)`.

    Definition and sizes: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep
    learning", arXiv:1603.07285; "same": operator Conv of the ONNX standard, SAME_UPPER.
    """
    return _convolve(
        "conv2d", 2, False, residual, residual_after, input, weight, bias,
        stride, padding, 0, dilation, groups, algorithm, activation, layout, out,
    )  # fmt: skip


def conv3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str | None = None,
    activation: Activation = None,
    layout: str | None = None,
    residual: NDArray | None = None,
    residual_after: bool = False,
    out: NDArray | None = None,
) -> NDArray:
    """Cross-correlation of (N, C, D, H, W) with a weight (O, C/groups, kD, kH, kW).

    Returns (N, O, oD, oH, oW), each size (L + low + high - dilation*(K - 1) - 1) // stride + 1.
    Everything else as in `conv2d`; layout "NHWC" means (N, D, H, W, C).
    """
    return _convolve(
        "conv3d", 3, False, residual, residual_after, input, weight, bias,
        stride, padding, 0, dilation, groups, algorithm, activation, layout, out,
    )  # fmt: skip


def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str | None = None,
    activation: Activation = None,
    layout: str | None = None,
    residual: NDArray | None = None,
    residual_after: bool = False,
    out: NDArray | None = None,
) -> NDArray:
    """Transposed convolution of (N, C, L) with a weight (C, O/groups, K).

    Returns (N, O, oL), each size
    (L - 1)*stride - 2*padding + dilation*(K - 1) + output_padding + 1.
    Everything else as in `conv_transpose2d`.
    """
    return _convolve(
        "conv_transpose1d", 1, True, residual, residual_after, input, weight, bias,
        stride, padding, output_padding, dilation, groups, algorithm, activation, layout, out,
    )  # fmt: skip


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str | None = None,
    activation: Activation = None,
    layout: str | None = None,
    residual: NDArray | None = None,
    residual_after: bool = False,
    out: NDArray | None = None,
) -> NDArray:
    """Transposed convolution of (N, C, H, W) with a weight (C, O/groups, kH, kW).

    Returns (N, O, oH, oW), each size
    (L - 1)*stride - 2*padding + dilation*(K - 1) + output_padding + 1. It is the adjoint of
    `conv2d` with the same stride, padding, dilation and groups: what the gradient of that is.

    padding: an int or one per axis; output_padding must be smaller than stride or dilation.
    All else as in `conv2d`.

    Definition and sizes: V. Dumoulin, F. Visin, arXiv:1603.07285, chapter 4.
    """
    return _convolve(
        "conv_transpose2d", 2, True, residual, residual_after, input, weight, bias,
        stride, padding, output_padding, dilation, groups, algorithm, activation, layout, out,
    )  # fmt: skip


def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str | None = None,
    activation: Activation = None,
    layout: str | None = None,
    residual: NDArray | None = None,
    residual_after: bool = False,
    out: NDArray | None = None,
) -> NDArray:
    """Transposed convolution of (N, C, D, H, W) with a weight (C, O/groups, kD, kH, kW).

    Returns (N, O, oD, oH, oW), each size
    (L - 1)*stride - 2*padding + dilation*(K - 1) + output_padding + 1.
    Everything else as in `conv_transpose2d`.
    """
    return _convolve(
        "conv_transpose3d", 3, True, residual, residual_after, input, weight, bias,
        stride, padding, output_padding, dilation, groups, algorithm, activation, layout, out,
    )  # fmt: skip


def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> NDArray:
    """y = x . weight^T + bias on the last axis: (..., I) with a weight (O, I) gives (..., O).

    The engine's convolution of 1x1 images; element types as in `conv2d`.
    """
    result = _core.again("linear", input, weight, bias, ())
    if result is not None:
        return result
    problem, x, w, b, y, result = _arguments.linear("linear", input, weight, bias)
    if y.size:
        plan = _core.conv(problem, x, w, b, y)
        _core.remember(plan, result, (x, w, b), "linear", input, weight, bias, ())
    return result


# --- pooling ------------------------------------------------------------------------------------


def max_pool1d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str | None = None,
    out: NDArray | None = None,
) -> NDArray | tuple[NDArray, NDArray]:
    """The largest of each window: (N, C, L) gives (N, C, oL); all else as in
    `max_pool2d`.
    """
    return _pool(
        _arguments.pooling, ("max_pool1d", 1, "max"), input, kernel_size, stride, padding,
        dilation, ceil_mode, True, None, return_indices, layout, out=out,
    )  # fmt: skip


def max_pool2d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str | None = None,
    out: NDArray | None = None,
) -> NDArray | tuple[NDArray, NDArray]:
    """The largest of each window: (N, C, H, W) gives (N, C, oH, oW).

    Each size is (L + 2*padding - dilation*(K - 1) - 1) // stride + 1, rounded up with `ceil_mode`
    as long as the last window starts in the input or in the padding before it.

    stride: None means as kernel_size. padding: at most half of what the kernel reaches over, as in
        `conv2d` but never a name; padded places never win.
    return_indices: also return int64 positions of the winners, counted in the unpadded plane of
        one channel; the first of equals.
    layout, out: as in `conv2d`.

    Any bool, integer or float type, kept. A NaN in a window is its maximum.
    """
    return _pool(
        _arguments.pooling, ("max_pool2d", 2, "max"), input, kernel_size, stride, padding,
        dilation, ceil_mode, True, None, return_indices, layout, out=out,
    )  # fmt: skip


def max_pool3d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str | None = None,
    out: NDArray | None = None,
) -> NDArray | tuple[NDArray, NDArray]:
    """The largest of each window: (N, C, D, H, W) gives (N, C, oD, oH, oW); all else as in
    `max_pool2d`.
    """
    return _pool(
        _arguments.pooling, ("max_pool3d", 3, "max"), input, kernel_size, stride, padding,
        dilation, ceil_mode, True, None, return_indices, layout, out=out,
    )  # fmt: skip


def avg_pool1d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """The mean of each window: (N, C, L) gives (N, C, oL); all else as in
    `avg_pool2d`.
    """
    return _pool(
        _arguments.pooling, ("avg_pool1d", 1, "avg"), input, kernel_size, stride, padding, 1,
        ceil_mode, count_include_pad, None, False, layout, out=out,
    )  # fmt: skip


def avg_pool2d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """The mean of each window: (N, C, H, W) gives (N, C, oH, oW).

    Sizes as in `max_pool2d`. The sum is divided by divisor_override, if given, else by the number
    of places of the window in the padded input, or in the input without count_include_pad.
    What `ceil_mode` puts beyond the padding is never counted.

    float16, float32 and float64 are kept (float16 is computed in float32); integers and bools give
    float64, as `np.mean` does. Sums: pairwise, see N. Higham, "The accuracy of floating point
    summation", SIAM J. Sci. Comput. 14 (1993).
    """
    return _pool(
        _arguments.pooling, ("avg_pool2d", 2, "avg"), input, kernel_size, stride, padding, 1,
        ceil_mode, count_include_pad, divisor_override, False, layout, out=out,
    )  # fmt: skip


def avg_pool3d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """The mean of each window: (N, C, D, H, W) gives (N, C, oD, oH, oW); all else as in
    `avg_pool2d`.
    """
    return _pool(
        _arguments.pooling, ("avg_pool3d", 3, "avg"), input, kernel_size, stride, padding, 1,
        ceil_mode, count_include_pad, divisor_override, False, layout, out=out,
    )  # fmt: skip


def _lp_pool(op, dims, input, norm_type, kernel_size, stride, ceil_mode):
    x = _arguments.floating(op, "input", input)
    power = _arguments.power(op, norm_type)
    options = (kernel_size, stride, 0, 1, ceil_mode, True, None, False, None)
    if np.isinf(power):
        sign = np.sign(power).astype(x.dtype)
        return sign * _pool(_arguments.pooling, (op, dims, "max"), sign * np.abs(x), *options)
    # Judged before the powers are taken, on the input itself.
    _arguments.pooling(op, dims, "avg", x, *options, allocate=False)
    count = prod(_arguments.integers(op, "kernel_size", kernel_size, dims, 1))
    powers = _numpy_ops.lp_powers(x, power)
    mean = _pool(_arguments.pooling, (op, dims, "avg"), powers, *options)
    return _numpy_ops.lp_root(mean, count, power, x.dtype)


def lp_pool1d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
) -> NDArray:
    """(sum of x**p)**(1/p) of each window: (N, C, L) gives (N, C, oL); all else
    as in `lp_pool2d`.
    """
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
) -> NDArray:
    """(sum of x**p)**(1/p) of each window: (N, C, H, W) gives (N, C, oH, oW).

    As PyTorch has it: no absolute value is taken, so that an odd p of a negative sum is NaN; a
    window that `ceil_mode` cuts off counts as its mean times the size of a whole one; p = inf is
    the largest absolute value, p = -inf the smallest. float16, float32 and float64, kept.
    """
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
) -> NDArray:
    """(sum of x**p)**(1/p) of each window: (N, C, D, H, W) gives (N, C, oD, oH, oW); all else
    as in `lp_pool2d`.
    """
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)


def adaptive_avg_pool1d(input: ArrayLike, output_size: Ints | None) -> NDArray:
    """The mean of each of `output_size` windows that cover (N, C, L) evenly.

    All else as in `adaptive_avg_pool2d`.
    """
    op = "adaptive_avg_pool1d"
    indexed = False
    return _pool(_arguments.adaptive_pooling, (op, 1, "avg"), input, output_size, indexed)


def adaptive_avg_pool2d(input: ArrayLike, output_size: Ints | None) -> NDArray:
    """The mean of each of `output_size` windows that cover (N, C, H, W) evenly.

    Window i of n over a size L goes from floor(i*L/n) to ceil((i + 1)*L/n). output_size: an int, or
    one per axis, where None keeps the input's size. Element types as in `avg_pool2d`.
    """
    op = "adaptive_avg_pool2d"
    indexed = False
    return _pool(_arguments.adaptive_pooling, (op, 2, "avg"), input, output_size, indexed)


def adaptive_avg_pool3d(input: ArrayLike, output_size: Ints | None) -> NDArray:
    """The mean of each of `output_size` windows that cover (N, C, D, H, W) evenly.

    All else as in `adaptive_avg_pool2d`.
    """
    op = "adaptive_avg_pool3d"
    indexed = False
    return _pool(_arguments.adaptive_pooling, (op, 3, "avg"), input, output_size, indexed)


def adaptive_max_pool1d(
    input: ArrayLike, output_size: Ints | None, return_indices: bool = False
) -> NDArray | tuple[NDArray, NDArray]:
    """The largest of each of `output_size` windows that cover (N, C, L) evenly.

    All else as in `adaptive_max_pool2d`.
    """
    op = "adaptive_max_pool1d"
    indexed = return_indices
    return _pool(_arguments.adaptive_pooling, (op, 1, "max"), input, output_size, indexed)


def adaptive_max_pool2d(
    input: ArrayLike, output_size: Ints | None, return_indices: bool = False
) -> NDArray | tuple[NDArray, NDArray]:
    """The largest of each of `output_size` windows that cover (N, C, H, W) evenly.

    Window i of n over a size L goes from floor(i*L/n) to ceil((i + 1)*L/n). output_size: an int, or
    one per axis, where None keeps the input's size. Element types as in `max_pool2d`.
    """
    op = "adaptive_max_pool2d"
    indexed = return_indices
    return _pool(_arguments.adaptive_pooling, (op, 2, "max"), input, output_size, indexed)


def adaptive_max_pool3d(
    input: ArrayLike, output_size: Ints | None, return_indices: bool = False
) -> NDArray | tuple[NDArray, NDArray]:
    """The largest of each of `output_size` windows that cover (N, C, D, H, W) evenly.

    All else as in `adaptive_max_pool2d`.
    """
    op = "adaptive_max_pool3d"
    indexed = return_indices
    return _pool(_arguments.adaptive_pooling, (op, 3, "max"), input, output_size, indexed)


def global_avg_pool(input: ArrayLike) -> NDArray:
    """The mean over all axes after (N, C), which stay as axes of 1.

    Element types as in `avg_pool2d`.
    """
    return _pool(_arguments.global_pooling, ("global_avg_pool", "avg"), input)


def global_max_pool(input: ArrayLike) -> NDArray:
    """The largest over all axes after (N, C), which stay as axes of 1.

    Element types as in `max_pool2d`.
    """
    return _pool(_arguments.global_pooling, ("global_max_pool", "max"), input)


def max_unpool1d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: tuple[int, ...] | None = None,
) -> NDArray:
    """The inverse of `max_pool1d`: values go where `indices` say, all else is zero.

    All else as in `max_unpool2d`.
    """
    judged = _arguments.unpooling(
        "max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size
    )
    return _numpy_ops.max_unpool(*judged, 1)


def max_unpool2d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: tuple[int, ...] | None = None,
) -> NDArray:
    """The inverse of `max_pool2d`: values go where `indices` say, all else is zero.

    indices: of the input's shape, as `max_pool2d` returns them: positions in the plane of one
        channel of the result. Where one is named twice, the last value in C order stays.
    output_size: which of the sizes that pool to this one, with or without batch and channels; None
        means (L - 1)*stride - 2*padding + kernel_size.

    Any bool, integer or float type, kept. Raises IndexError for an index outside of the plane.
    """
    judged = _arguments.unpooling(
        "max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size
    )
    return _numpy_ops.max_unpool(*judged, 2)


def max_unpool3d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: tuple[int, ...] | None = None,
) -> NDArray:
    """The inverse of `max_pool3d`: values go where `indices` say, all else is zero.

    All else as in `max_unpool2d`.
    """
    judged = _arguments.unpooling(
        "max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size
    )
    return _numpy_ops.max_unpool(*judged, 3)


# --- padding, resampling, shuffles --------------------------------------------------------------


def pad(
    input: ArrayLike, pad: tuple[int, ...], mode: str = "constant", value: float | None = None
) -> NDArray:
    """`input` with elements added at the ends of its axes.

    pad: (low, high) of the last axis, then of the one before, and so on.
    mode: "constant" fills with `value` (0 if None) and takes elements away where pad is negative;
        "reflect" mirrors without the edge, by less than the size; "replicate" repeats the
        edge; "circular" wraps around, at most once; of these too a negative pad takes away.

    Any bool, integer or float type, kept.
    """
    return _numpy_ops.pad(*_arguments.padding("pad", input, pad, mode, value))


def interpolate(
    input: ArrayLike,
    size: Ints | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> NDArray:
    """(N, C, ...) resampled to `size`, or to floor(L * scale_factor).

    mode: "nearest", "nearest-exact", "area" for one to three axes of space; "linear" for one,
        "bilinear" and "bicubic" for two, "trilinear" for three.
    align_corners: whether the centres of the first and last elements stay where they are, rather
        than the outer edges; not for the three first modes.
    recompute_scale_factor: whether positions follow the sizes rather than the given factor.
    antialias: whether the filter of "bilinear" or "bicubic" grows as wide as a smaller image's
        pixels are, as in Pillow; what lies outside of the image then has no weight.

    "nearest" keeps any type, "area" is `adaptive_avg_pool2d`, the others take floats. Cubic:
    R. Keys, IEEE Trans. ASSP 29 (1981), with a = -0.75, the edge repeated; a = -0.5 with antialias.
    """
    x, size, factors, mode, aligned, smooth = _arguments.resizing(
        "interpolate", input, size, scale_factor, mode, align_corners, recompute_scale_factor,
        antialias,
    )  # fmt: skip
    if mode == "area":
        dims, size = x.ndim - 2, tuple(size)
        return _pool(_arguments.adaptive_pooling, ("interpolate", dims, "avg"), x, size, False)
    return _numpy_ops.interpolate(x, size, factors, mode, aligned, smooth)


def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> NDArray:
    """(..., C*r*r, H, W) to (..., C, H*r, W*r); any bool, integer or float type, kept.

    W. Shi et al., "Real-time single image and video super-resolution", CVPR 2016.
    """
    return _numpy_ops.pixel_shuffle(
        *_arguments.pixel_shuffling("pixel_shuffle", input, upscale_factor, False)
    )


def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> NDArray:
    """(..., C, H*r, W*r) to (..., C*r*r, H, W), the inverse of `pixel_shuffle`."""
    return _numpy_ops.pixel_unshuffle(
        *_arguments.pixel_shuffling("pixel_unshuffle", input, downscale_factor, True)
    )


def channel_shuffle(input: ArrayLike, groups: int) -> NDArray:
    """(N, C, ...) with channel g*(C/groups) + i moved to i*groups + g; any type, kept.

    X. Zhang et al., "ShuffleNet", CVPR 2018.
    """
    return _numpy_ops.channel_shuffle(
        *_arguments.channel_shuffling("channel_shuffle", input, groups)
    )


def unfold(
    input: ArrayLike, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> NDArray:
    """The patches of (N, C, H, W) as columns: (N, C*kH*kW, how many); any type, kept.

    The matrix of the textbook's convolution (im2col); `conv2d` never builds it.
    """
    return _numpy_ops.unfold(
        *_arguments.unfolding("unfold", input, kernel_size, dilation, padding, stride)
    )


def fold(
    input: ArrayLike,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> NDArray:
    """(N, C*kH*kW, L) to (N, C, *output_size): the adjoint of `unfold`, overlaps are added.

    Integers and floats, kept; integers wrap.
    """
    return _numpy_ops.fold(
        *_arguments.folding("fold", input, output_size, kernel_size, dilation, padding, stride)
    )


# --- normalisation ------------------------------------------------------------------------------


def batch_norm(
    input: ArrayLike,
    running_mean: NDArray | None,
    running_var: NDArray | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> NDArray:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel of (N, C, ...).

    In training mean and variance are the input's own over all axes but C, and the running ones, if
    given, are updated in place: running = (1 - momentum)*running + momentum*own, with the unbiased
    variance. float16, float32 and float64, kept.

    S. Ioffe, C. Szegedy, "Batch normalization", ICML 2015.
    """
    return _numpy_ops.batch_norm(
        *_arguments.batch_normalising(
            "batch_norm", input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    )


def instance_norm(
    input: ArrayLike,
    running_mean: NDArray | None = None,
    running_var: NDArray | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> NDArray:
    """`batch_norm` with mean and variance of each sample of (N, C, ...) for itself.

    The running ones, if given, are updated with the mean over the samples.

    D. Ulyanov et al., "Instance normalization", arXiv:1607.08022.
    """
    return _numpy_ops.instance_norm(
        *_arguments.instance_normalising(
            "instance_norm", input, running_mean, running_var, weight, bias, use_input_stats,
            momentum, eps,
        )
    )  # fmt: skip


def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> NDArray:
    """Mean 0 and variance 1 over each group of channels of (N, C, ...), then weight and bias (C,).

    Y. Wu, K. He, "Group normalization", ECCV 2018.
    """
    return _numpy_ops.group_norm(
        *_arguments.group_normalising("group_norm", input, num_groups, weight, bias, eps)
    )


def layer_norm(
    input: ArrayLike,
    normalized_shape: Ints,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> NDArray:
    """Mean 0 and variance 1 over the last axes, then weight and bias of `normalized_shape`.

    J. Ba et al., "Layer normalization", arXiv:1607.06450.
    """
    return _numpy_ops.layer_norm(
        *_arguments.layer_normalising("layer_norm", input, normalized_shape, weight, bias, eps)
    )


def local_response_norm(
    input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> NDArray:
    """x / (k + alpha * mean of the squares of `size` channels around it)**beta; (N, C, L...).

    A. Krizhevsky et al., NIPS 2012, where alpha multiplies the sum.
    """
    return _numpy_ops.local_response_norm(
        *_arguments.response_normalising("local_response_norm", input, size, alpha, beta, k)
    )


def softmax(input: ArrayLike, dim: int | None = None, dtype: DTypeLike = None) -> NDArray:
    """exp(x) / sum(exp(x)) along the axis `dim`, without overflow, in float type `dtype` or the input's own."""
    return _numpy_ops.softmax(*_arguments.softening("softmax", input, dim, dtype))


def log_softmax(input: ArrayLike, dim: int | None = None, dtype: DTypeLike = None) -> NDArray:
    """x - log(sum(exp(x))) along the axis `dim`, without overflow, in float type `dtype` or the input's own."""
    return _numpy_ops.log_softmax(*_arguments.softening("log_softmax", input, dim, dtype))


def dropout(
    input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False
) -> NDArray:
    """Each element zero with probability p, else divided by 1 - p; not in training, the input.

    N. Srivastava et al., "Dropout", JMLR 15 (2014).
    """
    x, p, training, inplace = _arguments.dropping("dropout", input, p, training, inplace)
    return _numpy_ops.dropout(x, p, inplace) if training and p > 0 else x


# --- activations --------------------------------------------------------------------------------
# float16 (computed in float32), float32 and float64, kept; any shape.


def _activate(op, input, inplace=False, **parameters):
    given = (inplace, *parameters.values())
    result = _core.again(op, input, None, None, given)
    if result is not None:
        return result
    x = _arguments.floating(op, "input", input)
    values = tuple(_arguments.real(op, name, value) for name, value in parameters.items())
    inplace = _arguments.overwritable(op, input, inplace)
    y, plan, flat = _numpy_ops.activate(op, values, x)
    if inplace:
        input[...] = y
        return input
    if plan is not None:
        _core.remember(plan, y, (flat, None, None), op, input, None, None, given)
    return y


def relu(input: ArrayLike, inplace: bool = False) -> NDArray:
    """max(x, 0)."""
    return _activate("relu", input, inplace)


def relu6(input: ArrayLike, inplace: bool = False) -> NDArray:
    """min(max(x, 0), 6). A. Howard et al., "MobileNets", arXiv:1704.04861."""
    return _activate("relu6", input, inplace)


def leaky_relu(input: ArrayLike, negative_slope: float = 0.01, inplace: bool = False) -> NDArray:
    """x where x is positive, negative_slope * x elsewhere."""
    return _activate("leaky_relu", input, inplace, negative_slope=negative_slope)


def prelu(input: ArrayLike, weight: ArrayLike) -> NDArray:
    """x where x is positive, weight * x elsewhere; weight (1,), or (C,) for (N, C, ...).

    K. He et al., "Delving deep into rectifiers", ICCV 2015.
    """
    result = _core.again("prelu", input, weight, None, ())
    if result is not None:
        return result
    y, plan, taken = _numpy_ops.prelu(*_arguments.slopes("prelu", input, weight))
    if plan is not None:
        _core.remember(plan, y, taken, "prelu", input, weight, None, ())
    return y


def elu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> NDArray:
    """x where x is positive, alpha * (exp(x) - 1) elsewhere. D. Clevert et al., ICLR 2016."""
    return _activate("elu", input, inplace, alpha=alpha)


def silu(input: ArrayLike, inplace: bool = False) -> NDArray:
    """x * sigmoid(x). S. Elfwing et al., Neural Networks 107 (2018)."""
    return _activate("silu", input, inplace)


def gelu(input: ArrayLike, approximate: str = "none") -> NDArray:
    """x * Phi(x), Phi the normal distribution; approximate="tanh" is the paper's formula for it.

    D. Hendrycks, K. Gimpel, "Gaussian error linear units", arXiv:1606.08415.
    """
    approximate = _arguments.choice("gelu", "approximate", approximate, ("none", "tanh"))
    return _activate("gelu_tanh" if approximate == "tanh" else "gelu", input)


def sigmoid(input: ArrayLike) -> NDArray:
    """1 / (1 + exp(-x))."""
    return _activate("sigmoid", input)


def tanh(input: ArrayLike) -> NDArray:
    """The hyperbolic tangent."""
    return _activate("tanh", input)


def hardsigmoid(input: ArrayLike, inplace: bool = False) -> NDArray:
    """min(max(x + 3, 0), 6) / 6. A. Howard et al., "MobileNetV3", ICCV 2019."""
    return _activate("hardsigmoid", input, inplace)


def hardswish(input: ArrayLike, inplace: bool = False) -> NDArray:
    """x * hardsigmoid(x). A. Howard et al., "MobileNetV3", ICCV 2019."""
    return _activate("hardswish", input, inplace)


def softplus(input: ArrayLike, beta: float = 1.0, threshold: float = 20.0) -> NDArray:
    """log(1 + exp(beta*x)) / beta, and x where beta*x is above the threshold."""
    return _activate("softplus", input, beta=beta, threshold=threshold)


# --- weights of other libraries -----------------------------------------------------------------


def from_hwio(w: ArrayLike) -> NDArray:
    """A weight (..., I, O), as TensorFlow and JAX have it, as (O, I, ...)."""
    return _numpy_ops.from_hwio(_arguments.kernel_axes("from_hwio", w, (3, 4, 5)))


def from_keras_depthwise(w: ArrayLike) -> NDArray:
    """A Keras depthwise weight (..., C, M) as (C*M, 1, ...), for a convolution with groups=C."""
    return _numpy_ops.from_keras_depthwise(
        _arguments.kernel_axes("from_keras_depthwise", w, (3, 4, 5))
    )


# The names that explain() and workspace_bytes() know a call by.
_arguments.PUBLIC.update((name, globals()[name]) for name in __all__)
