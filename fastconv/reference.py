"""The slow twin: every op again, written from its definition.

Same names, same arguments and same results as the functions of `fastconv`, in NumPy alone and
without the compiled core. Loops run over taps, groups and axes; everything else is one array
expression. Sums are float64 (`sum_dtype=np.longdouble` for more) and rounded once, at the end.
It is made for reading and for comparing: arguments are taken as valid.

Beyond the functions, every convolution takes `positions=`, flat indices of the result or an
(n, rank) array of coordinates, and computes these elements only.

Letters: x input, w weight, b bias, y output, o output coordinate, t tap, k kernel, s stride,
d dilation, p padding, L input size. Formulas show one dimension; the others are alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Ints = int | tuple[int, ...]
Padding = int | str | tuple
Activation = str | tuple | None

_quiet = np.errstate(
    all="ignore"
)  # inf - inf, 0 * inf and overflow are results here, not accidents


# Arguments ----------------------------------------------------------------------------------------


def _each(value: Ints, dims: int) -> tuple[int, ...]:
    """One value a dimension: 3 -> (3, 3), (3,) -> (3, 3), (3, 4) -> (3, 4)."""
    values = np.ravel(value).tolist()
    return tuple(values * dims if len(values) == 1 else values)


def _pads(padding, size, kernel, stride, dilation) -> list[tuple[int, int]]:
    """(before, after) a dimension. "same": out = ceil(L/s), the odd one goes after the input."""
    if padding == "valid":
        padding = 0
    if not isinstance(padding, str):
        if np.ndim(padding) == 2:
            return [(int(lo), int(hi)) for lo, hi in padding]
        return [(p, p) for p in _each(padding, len(size))]
    pads = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if padding == "same" else (more, less))
    return pads


def _batched(input: ArrayLike, dims: int, layout: str | None):
    """The input as (N, C, *spatial), and the function that gives a result the caller's layout."""
    x = np.asarray(input)
    batched = x.ndim == dims + 2
    if layout == "NHWC":
        x = np.moveaxis(x, -1, -dims - 1)

    def back(y: NDArray) -> NDArray:
        y = y if batched else y[0]
        return np.moveaxis(y, -dims - 1, -1) if layout == "NHWC" else y

    return (x if batched else x[None]), back


def _float_type(*arrays: NDArray) -> np.dtype:
    """The type of a computed result: the widest of the floats, float64 if the first is no float."""
    first, *rest = arrays
    if first.dtype.kind != "f":
        return np.dtype(np.float64)
    return np.result_type(first, *[a for a in rest if a.dtype.kind == "f"])


def _as_parameter(value: ArrayLike | None, x: NDArray) -> NDArray | None:
    """Arrays of floats keep their type, lists and integers take that of x."""
    if value is None or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return value
    return np.asarray(value, _float_type(x))


def _wide(x: NDArray, sum_dtype: DTypeLike) -> NDArray:
    return x.astype(np.result_type(x, sum_dtype))


def _along(values: ArrayLike, axis: int, ndim: int) -> NDArray:
    """A vector shaped to broadcast along one axis of `ndim`."""
    return np.reshape(values, [-1 if a == axis else 1 for a in range(ndim)])


def _under(tap, count, stride, dilation) -> tuple[slice, ...]:
    """The pixels t·d, t·d + s, t·d + 2s, ... that `count` windows see under one tap."""
    return tuple(
        slice(t * d, t * d + (n - 1) * s + 1, s)
        for t, n, s, d in zip(tap, count, stride, dilation, strict=True)
    )


# Convolution --------------------------------------------------------------------------------------


@_quiet
def conv(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    activation: Activation = None,
    layout: str | None = None,
    residual: ArrayLike | None = None,
    residual_after: bool = False,
    positions: ArrayLike | None = None,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """y[n,oc,o] = b[oc] + Σ over t and its group's ic: w[oc,ic,t] · padded x[n,ic,o·s + t·d]."""
    dims = np.ndim(weight) - 2
    x, back = _batched(input, dims, layout)
    w, b = _as_parameter(weight, x), _as_parameter(bias, x)
    dtype = _float_type(x, w) if b is None else _float_type(x, w, b)
    (oc, ic, *kernel), stride, dilation = (w.shape, _each(stride, dims), _each(dilation, dims))

    pads = _pads(padding, x.shape[2:], kernel, stride, dilation)
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    size = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    x, w = _wide(x, sum_dtype), _wide(w, sum_dtype)
    shape = (len(x), oc, *size)
    r = None if residual is None else _batched(residual, dims, layout)[0]
    if positions is not None:
        at = _coordinates(positions, shape, back)
        sums = _conv_at(at, x, w, stride, dilation, groups)
        b, r = None if b is None else b[at[1]], None if r is None else r[at]
        return _finish(sums, b, activation, dtype, r, residual_after)

    sums = np.zeros(shape, np.result_type(x, w))
    for g in range(groups):
        inputs = slice(g * ic, (g + 1) * ic)
        outputs = slice(g * oc // groups, (g + 1) * oc // groups)
        for tap in np.ndindex(*kernel):
            seen = x[:, inputs][(..., *_under(tap, size, stride, dilation))]
            sums[:, outputs] += np.einsum("oi,ni...->no...", w[outputs][(..., *tap)], seen)
    b = None if b is None else _along(b, 1, dims + 2)
    return back(_finish(sums, b, activation, dtype, r, residual_after))


def _conv_at(at, x, w, stride, dilation, groups) -> NDArray:
    """The sums of `conv` at the output elements `at` = (n, oc, *o)."""
    n, o, *pixel = at
    ic = w.shape[1]
    inputs = (o // (len(w) // groups) * ic)[:, None] + np.arange(ic)
    sums = np.zeros(len(n), np.result_type(x, w))
    for tap in np.ndindex(*w.shape[2:]):
        there = [
            (q * s + t * d)[:, None]
            for q, t, s, d in zip(pixel, tap, stride, dilation, strict=True)
        ]
        sums += (x[(n[:, None], inputs, *there)] * w[(o, slice(None), *tap)]).sum(axis=1)
    return sums


@_quiet
def conv_transpose(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: Activation = None,
    layout: str | None = None,
    residual: ArrayLike | None = None,
    residual_after: bool = False,
    positions: ArrayLike | None = None,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """Each x[n,ic,i] adds w[ic,oc,t] · x[n,ic,i] to y[n,oc,i·s + t·d - p]; then b[oc] is added."""
    dims = np.ndim(weight) - 2
    x, back = _batched(input, dims, layout)
    w, b = _as_parameter(weight, x), _as_parameter(bias, x)
    dtype = _float_type(x, w) if b is None else _float_type(x, w, b)
    (ic, oc, *kernel), stride, dilation = (w.shape, _each(stride, dims), _each(dilation, dims))
    padding, extra = _each(padding, dims), _each(output_padding, dims)
    x, w = _wide(x, sum_dtype), _wide(w, sum_dtype)

    reach = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for n, k, s, d, e in zip(x.shape[2:], kernel, stride, dilation, extra, strict=True)
    ]
    size = [n - 2 * p for n, p in zip(reach, padding, strict=True)]
    r = None if residual is None else _batched(residual, dims, layout)[0]
    if positions is not None:
        at = _coordinates(positions, (len(x), oc * groups, *size), back)
        sums = _conv_transpose_at(at, x, w, stride, padding, dilation, groups)
        b, r = None if b is None else b[at[1]], None if r is None else r[at]
        return _finish(sums, b, activation, dtype, r, residual_after)

    sums = np.zeros((len(x), oc * groups, *reach), np.result_type(x, w))
    for g in range(groups):
        inputs = slice(g * ic // groups, (g + 1) * ic // groups)
        outputs = slice(g * oc, (g + 1) * oc)
        for tap in np.ndindex(*kernel):
            hit = _under(tap, x.shape[2:], stride, dilation)
            sums[:, outputs][(..., *hit)] += np.einsum(
                "io,ni...->no...", w[inputs][(..., *tap)], x[:, inputs]
            )
    sums = sums[(..., *[slice(p, p + n) for p, n in zip(padding, size, strict=True)])]
    b = None if b is None else _along(b, 1, dims + 2)
    return back(_finish(sums, b, activation, dtype, r, residual_after))


def _conv_transpose_at(at, x, w, stride, padding, dilation, groups) -> NDArray:
    """The sums of `conv_transpose` at `at`: through tap t, o hears from i = (o + p - t·d) / s."""
    n, o, *pixel = at
    ic, oc = len(w) // groups, w.shape[1]
    inputs = (o // oc * ic)[:, None] + np.arange(ic)
    sums = np.zeros(len(n), np.result_type(x, w))
    for tap in np.ndindex(*w.shape[2:]):
        heard, there = np.ones(len(n), bool), []
        for q, t, s, p, d, size in zip(
            pixel, tap, stride, padding, dilation, x.shape[2:], strict=True
        ):
            i, rest = np.divmod(q + p - t * d, s)
            heard &= (rest == 0) & (i >= 0) & (i < size)
            there.append(i)
        there = [i[heard, None] for i in there]
        channels = inputs[heard]
        weights = w[(channels, o[heard, None] % oc, *tap)]
        sums[heard] += (x[(n[heard, None], channels, *there)] * weights).sum(axis=1)
    return sums


def _coordinates(positions, shape, back) -> tuple[NDArray, ...]:
    """Positions in the caller's result, as coordinates in (N, C, *spatial)."""
    positions = np.asarray(positions, np.intp)
    offsets = back(np.arange(np.prod(shape)).reshape(shape))
    flat = positions if positions.ndim == 1 else np.ravel_multi_index(positions.T, offsets.shape)
    return np.unravel_index(offsets.ravel()[flat], shape)


def _finish(sums, bias, activation, dtype, residual=None, residual_after=False) -> NDArray:
    """act(sums + b + residual) or act(sums + b) + residual, rounded to the type of the result."""
    y = sums if bias is None else sums + bias
    if residual is not None and not residual_after:
        y = y + residual
    if activation is not None:
        name, *parameters = (activation,) if isinstance(activation, str) else activation
        if name == "gelu_tanh":
            name, parameters = "gelu", ["tanh"]
        y = globals()[name](y, *parameters, sum_dtype=y.dtype)
    if residual is not None and residual_after:
        y = y + residual
    return y.astype(dtype)


# The rank is the weight's, so one definition serves all three.
conv1d = conv2d = conv3d = conv
conv_transpose1d = conv_transpose2d = conv_transpose3d = conv_transpose


def conv2d_im2col(input, weight, bias=None, stride=1, padding=0, dilation=1) -> NDArray:
    """The textbook's conv2d: copy each patch to a column, then y = W · columns, one product."""
    batch, _, *size = input.shape
    oc, _, *kernel = weight.shape
    s, p, d = _each(stride, 2), _each(padding, 2), _each(dilation, 2)
    oh, ow = [(size[i] + 2 * p[i] - d[i] * (kernel[i] - 1) - 1) // s[i] + 1 for i in (0, 1)]
    columns = unfold(input, kernel, dilation, padding, stride)  # (N, C·kh·kw, oh·ow)
    y = weight.reshape(oc, -1) @ columns
    if bias is not None:
        y = y + bias[:, None]
    return y.reshape(batch, oc, oh, ow)


@_quiet
def linear(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: Activation = None,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """y = x · wᵀ + b over the last axis."""
    x = np.asarray(input)
    w, b = _as_parameter(weight, x), _as_parameter(bias, x)
    dtype = _float_type(x, w) if b is None else _float_type(x, w, b)
    return _finish(_wide(x, sum_dtype) @ _wide(w, sum_dtype).T, b, activation, dtype)


# Pooling ------------------------------------------------------------------------------------------
# A window is given, for each dimension, by an (out, k) array: the input coordinate under each tap.
# Coordinates outside of the input are padding.


def _windows(size, kernel, stride, pads, dilation, ceil_mode) -> list[NDArray]:
    """o·s - p + t·d. With ceil_mode the last window must start before the end of the input."""
    windows = []
    for n, k, s, (lo, hi), d in zip(size, kernel, stride, pads, dilation, strict=True):
        out = (n + lo + hi - d * (k - 1) - 1 + (s - 1) * ceil_mode) // s + 1
        if ceil_mode and (out - 1) * s >= n + lo:
            out -= 1
        windows.append(np.arange(out)[:, None] * s - lo + np.arange(k) * d)
    return windows


def _adaptive_windows(size, output_size) -> list[NDArray]:
    """floor(o·L / out) up to ceil((o+1)·L / out); shorter windows are filled with padding."""
    output_size = np.broadcast_to(np.asarray(output_size, object), len(size))
    windows = []
    for n, out in zip(size, output_size, strict=True):
        out = n if out is None else int(out)
        o = np.arange(out)[:, None]
        first, end = o * n // out, -(-(o + 1) * n // out)
        at = first + np.arange(max((end - first).max(initial=1), 1))
        windows.append(np.where(at < end, at, -1))
    return windows


def _taps(x: NDArray, windows: list[NDArray]):
    """For each tap, over all windows: the values under it, their flat indices, which are inside."""
    size = x.shape[2:]
    plane = np.arange(np.prod(size)).reshape(size)
    for tap in np.ndindex(*[w.shape[1] for w in windows]):
        at = np.ix_(*[w[:, t] for w, t in zip(windows, tap, strict=True)])
        inside = [(a >= 0) & (a < n) for a, n in zip(at, size, strict=True)]
        there = tuple(a.clip(0, n - 1) for a, n in zip(at, size, strict=True))
        yield (x[(..., *there)], plane[there], np.all(np.broadcast_arrays(*inside), axis=0))


def _max(x: NDArray, windows: list[NDArray]) -> tuple[NDArray, NDArray]:
    """The maxima and where they are: ties take the first, a NaN wins, of several NaNs the last."""
    shape = (*x.shape[:2], *map(len, windows))
    best, index = (np.full(shape, _lowest(x.dtype), x.dtype), np.full(shape, -1, np.int64))
    for value, here, inside in _taps(x, windows):
        wins = inside & ((index < 0) | (value > best) | np.isnan(value))
        best, index = np.where(wins, value, best), np.where(wins, here, index)
    return best.astype(x.dtype.newbyteorder("="), copy=False), index


def _lowest(dtype: np.dtype):
    if dtype.kind == "f":
        return -np.inf
    return False if dtype.kind == "b" else np.iinfo(dtype).min


def _sum(x: NDArray, windows: list[NDArray], sum_dtype: DTypeLike) -> NDArray:
    shape = (*x.shape[:2], *map(len, windows))
    sums = np.zeros(shape, np.result_type(x, sum_dtype))
    for value, _, inside in _taps(x, windows):
        sums += np.where(inside, value, 0)
    return sums


def _count(windows, ranges) -> NDArray:
    """How many taps of each window lie in the (low, high) range of every dimension."""
    counts = [
        ((w >= low) & (w < high)).sum(axis=1)
        for w, (low, high) in zip(windows, ranges, strict=True)
    ]
    return np.prod(np.broadcast_arrays(*np.ix_(*counts)), axis=0)


# Each of the next functions makes one op for a given number of spatial dimensions.


def _max_pool(dims: int):
    def max_pool(
        input: ArrayLike,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        *,
        layout: str | None = None,
    ) -> NDArray | tuple[NDArray, NDArray]:
        """y[o] = max over t of x[o·s - p + t·d]; padding never wins, a NaN always does."""
        x, back = _batched(input, dims, layout)
        size, kernel, step = (x.shape[2:], _each(kernel_size, dims), _each(dilation, dims))
        s = kernel if stride is None else _each(stride, dims)
        pads = _pads(padding, size, kernel, s, step)
        y, index = _max(x, _windows(size, kernel, s, pads, step, ceil_mode))
        return (back(y), back(index)) if return_indices else back(y)

    return max_pool


def _avg_pool(dims: int):
    @_quiet
    def avg_pool(
        input: ArrayLike,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: str | None = None,
        sum_dtype: DTypeLike = np.float64,
    ) -> NDArray:
        """y[o] = Σ over t of x[o·s - p + t] / count. The count is that of the taps in the input
        and, unless count_include_pad is false, in its padding; what ceil_mode adds is neither."""
        x, back = _batched(input, dims, layout)
        size, kernel, one = x.shape[2:], _each(kernel_size, dims), (1,) * dims
        s = kernel if stride is None else _each(stride, dims)
        pads = _pads(padding, size, kernel, s, one)
        windows = _windows(size, kernel, s, pads, one, ceil_mode)
        valid = _count(windows, [(0, n) for n in size])
        padded = _count(windows, [(-lo, n + hi) for n, (lo, hi) in zip(size, pads, strict=True)])
        divisor = divisor_override or (padded if count_include_pad else valid)
        y = np.where(valid > 0, _sum(x, windows, sum_dtype) / divisor, 0)
        return back(y.astype(_float_type(x)))

    return avg_pool


def _lp_pool(dims: int):
    @_quiet
    def lp_pool(
        input: ArrayLike,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
        *,
        layout: str | None = None,
        sum_dtype: DTypeLike = np.float64,
    ) -> NDArray:
        """y = (k · mean of x^p)^(1/p): x itself and not |x|, and the mean is that of avg_pool."""
        x = np.asarray(input)
        powers = _wide(x, sum_dtype) ** norm_type
        mean = _avg_pool(dims)(
            powers, kernel_size, stride, 0, ceil_mode, layout=layout, sum_dtype=sum_dtype
        )
        y = (mean * np.prod(_each(kernel_size, dims))) ** (1 / powers.dtype.type(norm_type))
        return y.astype(_float_type(x))

    return lp_pool


def _adaptive_avg_pool(dims: int):
    @_quiet
    def adaptive_avg_pool(
        input: ArrayLike,
        output_size: Ints,
        *,
        layout: str | None = None,
        sum_dtype: DTypeLike = np.float64,
    ) -> NDArray:
        """y[o] = mean of x[floor(o·L/out) : ceil((o+1)·L/out)]."""
        x, back = _batched(input, dims, layout)
        windows = _adaptive_windows(x.shape[2:], output_size)
        y = _sum(x, windows, sum_dtype) / _count(windows, [(0, n) for n in x.shape[2:]])
        return back(y.astype(_float_type(x)))

    return adaptive_avg_pool


def _adaptive_max_pool(dims: int):
    def adaptive_max_pool(
        input: ArrayLike,
        output_size: Ints,
        return_indices: bool = False,
        *,
        layout: str | None = None,
    ) -> NDArray | tuple[NDArray, NDArray]:
        """y[o] = max of x[floor(o·L/out) : ceil((o+1)·L/out)]."""
        x, back = _batched(input, dims, layout)
        y, index = _max(x, _adaptive_windows(x.shape[2:], output_size))
        return (back(y), back(index)) if return_indices else back(y)

    return adaptive_max_pool


def _max_unpool(dims: int):
    def max_unpool(
        input: ArrayLike,
        indices: ArrayLike,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        output_size: tuple[int, ...] | None = None,
        *,
        layout: str | None = None,
    ) -> NDArray:
        """y.flat[indices] = x in each plane, else 0; of repeated indices the last one stays."""
        x, back = _batched(input, dims, layout)
        index, _ = _batched(indices, dims, layout)
        kernel, p = _each(kernel_size, dims), _each(padding, dims)
        s = kernel if stride is None else _each(stride, dims)
        size = [(x.shape[i + 2] - 1) * s[i] - 2 * p[i] + kernel[i] for i in range(dims)]
        if output_size is not None:
            size = [int(n) for n in output_size[-dims:]]
        y = np.zeros((x.shape[0] * x.shape[1], int(np.prod(size))), x.dtype.newbyteorder("="))
        rows, taken = np.arange(len(y))[:, None], int(np.prod(x.shape[2:]))
        # NumPy assigns in order, so of two values for one place the later one stays.
        y[rows, index.reshape(len(y), taken)] = x.reshape(len(y), taken)
        return back(y.reshape(*x.shape[:2], *size))

    return max_unpool


max_pool1d, max_pool2d, max_pool3d = map(_max_pool, (1, 2, 3))
avg_pool2d, avg_pool3d = map(_avg_pool, (2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = map(_lp_pool, (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(_adaptive_avg_pool, (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(_adaptive_max_pool, (1, 2, 3))
max_unpool1d, max_unpool2d, max_unpool3d = map(_max_unpool, (1, 2, 3))


def avg_pool1d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str | None = None,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """As avg_pool2d, without the divisor_override."""
    options = {"layout": layout, "sum_dtype": sum_dtype}
    return _avg_pool(1)(
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, **options
    )


def _spatial(x: NDArray, layout: str | None) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1) if layout == "NHWC" else range(2, x.ndim))


@_quiet
def global_avg_pool(
    input: ArrayLike, *, layout: str | None = None, sum_dtype: DTypeLike = np.float64
) -> NDArray:
    """Mean over all spatial axes, which stay with size 1."""
    x = np.asarray(input)
    mean = _wide(x, sum_dtype).mean(axis=_spatial(x, layout), keepdims=True)
    return mean.astype(_float_type(x))


def global_max_pool(input: ArrayLike, *, layout: str | None = None) -> NDArray:
    """Maximum over all spatial axes, which stay with size 1; a NaN wins."""
    x = np.asarray(input)
    return x.max(axis=_spatial(x, layout), keepdims=True)


# Moving pixels ------------------------------------------------------------------------------------


def pad(
    input: ArrayLike, pad: tuple[int, ...], mode: str = "constant", value: float | None = None
) -> NDArray:
    """Pairs (before, after), the last axis first. reflect: cb|abc|ba, replicate: aa|abc|cc,
    circular: bc|abc|ab. A negative width crops."""
    x = np.asarray(input)
    for axis, (lo, hi) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        x = _pad_axis(np.moveaxis(x, -axis, 0), lo, hi, mode, value or 0)
        x = np.moveaxis(x, 0, -axis)
    return x


def _pad_axis(x: NDArray, lo: int, hi: int, mode: str, value: float) -> NDArray:
    """Along the first axis, of whose places `at` may lie outside; circular crops before it wraps."""
    if mode == "circular":
        x = x[max(0, -lo) : len(x) - max(0, -hi)]
        lo, hi = max(0, lo), max(0, hi)
    last, at = len(x) - 1, np.arange(-lo, len(x) + hi)
    if mode == "constant":
        y = np.full((len(at), *x.shape[1:]), value, x.dtype)
        inside = (at >= 0) & (at <= last)
        y[inside] = x[at[inside]]
        return y
    source = {
        "reflect": last - abs(last - at % max(2 * last, 1)),
        "replicate": at.clip(0, last),
        "circular": at % max(len(x), 1),
    }
    return x[source[mode]]


def _triangle(u: NDArray) -> NDArray:
    return np.maximum(0, 1 - abs(u))


def _keys_cubic(u: NDArray, a: float = -0.75) -> NDArray:
    """Cubic convolution (R. G. Keys, 1981) with a = -3/4."""
    u = abs(u)
    near = (a + 2) * u**3 - (a + 3) * u**2 + 1
    far = a * (u**3 - 5 * u**2 + 8 * u - 4)
    return np.where(u <= 1, near, np.where(u < 2, far, 0))


_FILTERS = {  # mode: the filter h and its radius
    "linear": (_triangle, 1),
    "bilinear": (_triangle, 1),
    "trilinear": (_triangle, 1),
    "bicubic": (_keys_cubic, 2),
}


@_quiet
def interpolate(
    input: ArrayLike,
    size: Ints | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """Axis by axis y[o] = Σ over i of h(at(o) - i) · x[i], i clipped to the image. at(o) is
    (o + 1/2)·L/out - 1/2, or o·(L-1)/(out-1) if corners are aligned. nearest: x[floor(o·L/out)];
    nearest-exact: x[floor((o + 1/2)·L/out)]; area: `adaptive_avg_pool`. A scale_factor stands for
    out/L unless recompute_scale_factor. antialias: h((i - at(o)) / s) / Σ of these, s = L/out where
    that is more than 1, over the i in the image alone; cubic with a = -1/2."""
    x = np.asarray(input)
    dims = x.ndim - 2
    scales = [None] * dims
    if size is None:
        scales = np.broadcast_to(scale_factor, dims).tolist()
        size = [int(np.floor(n * f)) for n, f in zip(x.shape[2:], scales, strict=True)]
        scales = [None] * dims if recompute_scale_factor else scales
    size = _each(size, dims)
    if mode == "area":
        return _adaptive_avg_pool(dims)(x, size, sum_dtype=sum_dtype)
    y = x if mode.startswith("nearest") else _wide(x, sum_dtype)
    for axis, (out, scale) in enumerate(zip(size, scales, strict=True), start=2):
        resize = _smooth_axis if antialias else _resize_axis
        y = resize(y, axis, out, scale, mode, align_corners)
    return y if y.dtype == x.dtype else y.astype(_float_type(x))


def _resize_axis(x, axis, out, scale, mode, align_corners) -> NDArray:
    n = x.shape[axis]
    offset = 0 if mode == "nearest" or align_corners else 0.5
    o = np.arange(out) + offset
    if align_corners:
        at = o * (n - 1) / max(out - 1, 1)
    else:
        # One rounding only, so a whole coordinate is whole; float32 steps can land just below it.
        at = o / scale if scale else o * n / out
    if mode.startswith("nearest"):
        return x.take(np.floor(at).astype(np.intp).clip(0, n - 1), axis)
    at = at.astype(x.dtype) - offset
    h, radius = _FILTERS[mode]
    y = 0
    for t in range(1 - radius, 1 + radius):
        i = np.floor(at) + t
        y = y + _along(h(at - i), axis, x.ndim) * x.take(i.astype(np.intp).clip(0, n - 1), axis)
    return y


def _smooth_axis(x, axis, out, scale, mode, align_corners) -> NDArray:
    n = x.shape[axis]
    step = 1 / scale if scale else n / out
    if align_corners:
        step = (n - 1) / (out - 1) if out > 1 else 0
    s = max(step, 1)
    at = (np.arange(out)[:, None] + 0.5) * step - 0.5
    u = (np.arange(n) - at) / s
    h = _triangle(u) if mode == "bilinear" else _keys_cubic(u, a=-0.5)
    return np.moveaxis(np.moveaxis(x, axis, -1) @ (h / h.sum(1, keepdims=True)).T, -1, axis)


def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> NDArray:
    """y[c, h·r + i, w·r + j] = x[c·r² + i·r + j, h, w]."""
    x, r = np.asarray(input), upscale_factor
    *batch, c, h, w = x.shape
    x = x.reshape(*batch, c // r**2, r, r, h, w)
    return np.moveaxis(x, (-4, -3), (-3, -1)).reshape(*batch, c // r**2, h * r, w * r)


def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> NDArray:
    """y[c·r² + i·r + j, h, w] = x[c, h·r + i, w·r + j]."""
    x, r = np.asarray(input), downscale_factor
    *batch, c, h, w = x.shape
    x = x.reshape(*batch, c, h // r, r, w // r, r)
    return np.moveaxis(x, (-3, -1), (-4, -3)).reshape(*batch, c * r**2, h // r, w // r)


def channel_shuffle(input: ArrayLike, groups: int) -> NDArray:
    """y[:, i·g + j] = x[:, j·(C/g) + i]."""
    x = np.asarray(input)
    return x.reshape(len(x), groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)


def unfold(
    input: ArrayLike, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> NDArray:
    """y[n, (c, t), o] = padded x[n, c, o·s + t·d]: (N, C, H, W) -> (N, C·kh·kw, oh·ow)."""
    x, _ = _batched(input, 2, None)
    kernel, p = _each(kernel_size, 2), _each(padding, 2)
    s, d = _each(stride, 2), _each(dilation, 2)
    x = np.pad(x, [(0, 0), (0, 0), *[(i, i) for i in p]])
    size = [(x.shape[i + 2] - d[i] * (kernel[i] - 1) - 1) // s[i] + 1 for i in (0, 1)]
    taps = [x[(..., *_under(tap, size, s, d))] for tap in np.ndindex(*kernel)]
    y = np.stack(taps, axis=2).reshape(len(x), x.shape[1] * len(taps), size[0] * size[1])
    return y if np.ndim(input) == 4 else y[0]


@_quiet
def fold(
    input: ArrayLike,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """The adjoint of `unfold`: each x[n, (c, t), o] is added to y[n, c, o·s + t·d - p]."""
    columns = np.asarray(input)
    x = columns if columns.ndim == 3 else columns[None]
    kernel, p = _each(kernel_size, 2), _each(padding, 2)
    s, d = _each(stride, 2), _each(dilation, 2)
    padded = [n + 2 * i for n, i in zip(_each(output_size, 2), p, strict=True)]
    size = [(padded[i] - d[i] * (kernel[i] - 1) - 1) // s[i] + 1 for i in (0, 1)]
    x = x.reshape(len(x), x.shape[1] // (kernel[0] * kernel[1]), *kernel, *size)
    whole = x.dtype.kind in "iu"
    sums = np.zeros((*x.shape[:2], *padded), x.dtype if whole else np.result_type(x, sum_dtype))
    for tap in np.ndindex(*kernel):
        sums[(..., *_under(tap, size, s, d))] += x[:, :, tap[0], tap[1]]
    y = sums[:, :, p[0] : padded[0] - p[0], p[1] : padded[1] - p[1]]
    y = y if whole else y.astype(_float_type(x))
    return y if columns.ndim == 3 else y[0]


def from_hwio(w: ArrayLike) -> NDArray:
    """(*kernel, I/groups, O) -> (O, I/groups, *kernel)."""
    return np.moveaxis(np.asarray(w), (-1, -2), (0, 1))


def from_keras_depthwise(w: ArrayLike) -> NDArray:
    """(*kernel, C, M) -> (C·M, 1, *kernel): channel c gives the outputs c·M ... c·M + M - 1."""
    w = np.asarray(w)
    return from_hwio(w.reshape(*w.shape[:-2], 1, w.shape[-2] * w.shape[-1]))


# Normalisation ------------------------------------------------------------------------------------


def _moments(x: NDArray, axes) -> tuple[NDArray, NDArray]:
    mean = x.mean(axis=axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis=axes, keepdims=True)


def _normalised(input, x, mean, var, eps, weight, bias) -> NDArray:
    """(x - mean) / √(var + ε) · w + b in the type of the input; all broadcast already."""
    y = (x - mean) / np.sqrt(var + eps)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y.astype(_float_type(np.asarray(input)))


def _per_channel(values: ArrayLike | None, x: NDArray) -> NDArray | None:
    return None if values is None else _along(values, 1, x.ndim)


def _update(running: NDArray | None, seen: NDArray, momentum: float) -> None:
    if running is not None:
        running[...] = (1 - momentum) * running + momentum * seen


@_quiet
def batch_norm(
    input: ArrayLike,
    running_mean: NDArray | None,
    running_var: NDArray | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """(x - mean) / √(var + ε) · w + b a channel; training takes the batch's own mean and variance
    and moves the running ones, the variance as Σ(x - mean)² / (n - 1), by momentum."""
    x = _wide(np.asarray(input), sum_dtype)
    axes = (0, *range(2, x.ndim))
    mean, var = _per_channel(running_mean, x), _per_channel(running_var, x)
    if training and not x.size:
        return np.array(input)
    if training:
        mean, var = _moments(x, axes)
        n = x.size // x.shape[1]
        _update(running_mean, mean.ravel(), momentum)
        _update(running_var, var.ravel() * n / (n - 1), momentum)
    w, b = _per_channel(weight, x), _per_channel(bias, x)
    return _normalised(input, x, mean, var, eps, w, b)


@_quiet
def instance_norm(
    input: ArrayLike,
    running_mean: NDArray | None = None,
    running_var: NDArray | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """`batch_norm` of each image alone; the running values move by the average over the images."""
    x = _wide(np.asarray(input), sum_dtype)
    mean, var = _per_channel(running_mean, x), _per_channel(running_var, x)
    if use_input_stats:
        mean, var = _moments(x, tuple(range(2, x.ndim)))
        n = np.prod(x.shape[2:])
        _update(running_mean, mean.mean(axis=0).ravel(), momentum)
        _update(running_var, var.mean(axis=0).ravel() * n / (n - 1), momentum)
    w, b = _per_channel(weight, x), _per_channel(bias, x)
    return _normalised(input, x, mean, var, eps, w, b)


@_quiet
def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """(x - mean) / √(var + ε) · w + b over C/groups channels of an image; w and b a channel."""
    x = _wide(np.asarray(input), sum_dtype)
    grouped = x.reshape(len(x), num_groups, x.shape[1] // num_groups, *x.shape[2:])
    mean, var = _moments(grouped, tuple(range(2, grouped.ndim)))
    y = ((grouped - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return _normalised(input, y, 0, 1, 0, _per_channel(weight, x), _per_channel(bias, x))


@_quiet
def layer_norm(
    input: ArrayLike,
    normalized_shape: Ints,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """(x - mean) / √(var + ε) · w + b over the last axes; w and b have their shape."""
    x = _wide(np.asarray(input), sum_dtype)
    mean, var = _moments(x, tuple(range(-np.size(normalized_shape), 0)))
    return _normalised(input, x, mean, var, eps, weight, bias)


@_quiet
def local_response_norm(
    input: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """x[c] / (k + α/size · Σ x²)^β over the channels c - size//2 ... c - size//2 + size - 1."""
    x = _wide(np.asarray(input), sum_dtype)
    before = size // 2
    squares = np.pad(x**2, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    sums = sum(squares[:, t : t + x.shape[1]] for t in range(size))
    return (x / (k + alpha / size * sums) ** beta).astype(_float_type(np.asarray(input)))


def _softmax_axis(dim: int | None, ndim: int) -> int:
    """PyTorch's rule where no axis is given."""
    return dim if dim is not None else 0 if ndim in (0, 1, 3) else 1


@_quiet
def softmax(
    input: ArrayLike,
    dim: int | None = None,
    dtype: DTypeLike = None,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """e^x / Σ e^x, the maximum of x taken off first so that nothing overflows."""
    x = _wide(np.asarray(input, dtype), sum_dtype)
    axis = _softmax_axis(dim, x.ndim)
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return (e / e.sum(axis=axis, keepdims=True)).astype(_float_type(np.asarray(input, dtype)))


@_quiet
def log_softmax(
    input: ArrayLike,
    dim: int | None = None,
    dtype: DTypeLike = None,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """x - log Σ e^x, the maximum of x taken off first so that nothing overflows."""
    x = _wide(np.asarray(input, dtype), sum_dtype)
    axis = _softmax_axis(dim, x.ndim)
    x = x - x.max(axis=axis, keepdims=True)
    y = x - np.log(np.exp(x).sum(axis=axis, keepdims=True))
    return y.astype(_float_type(np.asarray(input, dtype)))


@_quiet
def dropout(
    input: ArrayLike,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    keep: ArrayLike | None = None,
) -> NDArray:
    """x / (1 - p) where `keep` (drawn with probability 1 - p unless given), else 0; x if not
    training. `inplace` writes to the input too."""
    x = np.asarray(input)
    y = x.copy()
    if training:
        keep = np.random.default_rng().random(x.shape) >= p if keep is None else keep
        y = np.where(keep, x / (1 - p), 0).astype(x.dtype)
    if inplace:
        x[...] = y
        return x
    return y


# Activations --------------------------------------------------------------------------------------


@_quiet
def _map(formula, input: ArrayLike, sum_dtype: DTypeLike, inplace: bool = False) -> NDArray:
    """A formula of one number, computed in sum_dtype, in the type of the input."""
    x = np.asarray(input)
    y = formula(_wide(x, sum_dtype)).astype(_float_type(x))
    if inplace:
        x[...] = y
        return x
    return y


def relu(input: ArrayLike, inplace: bool = False, *, sum_dtype: DTypeLike = np.float64) -> NDArray:
    """max(x, 0)."""
    return _map(lambda x: np.maximum(x, 0), input, sum_dtype, inplace)


def relu6(input: ArrayLike, inplace: bool = False, *, sum_dtype: DTypeLike = np.float64) -> NDArray:
    """min(max(x, 0), 6)."""
    return _map(lambda x: np.clip(x, 0, 6), input, sum_dtype, inplace)


def leaky_relu(
    input: ArrayLike,
    negative_slope: float = 0.01,
    inplace: bool = False,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """x if x > 0 else slope · x."""
    return _map(lambda x: np.where(x > 0, x, negative_slope * x), input, sum_dtype, inplace)


def prelu(input: ArrayLike, weight: ArrayLike, *, sum_dtype: DTypeLike = np.float64) -> NDArray:
    """x if x > 0 else w · x, w one number or one a channel (axis 1)."""
    w = np.asarray(weight)
    slope = w.item() if w.size == 1 else _along(w, 1, np.ndim(input))
    return leaky_relu(input, slope, sum_dtype=sum_dtype)


def elu(
    input: ArrayLike,
    alpha: float = 1.0,
    inplace: bool = False,
    *,
    sum_dtype: DTypeLike = np.float64,
) -> NDArray:
    """x if x > 0 else α·(e^x - 1)."""
    return _map(lambda x: np.where(x > 0, x, alpha * np.expm1(x)), input, sum_dtype, inplace)


def _logistic(x: NDArray) -> NDArray:
    """1 / (1 + e^-x), as e^x / (1 + e^x) for negative x so that nothing overflows."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-abs(x)))


def sigmoid(input: ArrayLike, *, sum_dtype: DTypeLike = np.float64) -> NDArray:
    """1 / (1 + e^-x)."""
    return _map(_logistic, input, sum_dtype)


def silu(input: ArrayLike, inplace: bool = False, *, sum_dtype: DTypeLike = np.float64) -> NDArray:
    """x / (1 + e^-x)."""
    return _map(lambda x: x * _logistic(x), input, sum_dtype, inplace)


def tanh(input: ArrayLike, *, sum_dtype: DTypeLike = np.float64) -> NDArray:
    """(e^x - e^-x) / (e^x + e^-x)."""
    return _map(np.tanh, input, sum_dtype)


def hardsigmoid(
    input: ArrayLike, inplace: bool = False, *, sum_dtype: DTypeLike = np.float64
) -> NDArray:
    """min(max(x + 3, 0), 6) / 6."""
    return _map(lambda x: np.clip(x + 3, 0, 6) / 6, input, sum_dtype, inplace)


def hardswish(
    input: ArrayLike, inplace: bool = False, *, sum_dtype: DTypeLike = np.float64
) -> NDArray:
    """x · min(max(x + 3, 0), 6) / 6."""
    return _map(lambda x: x * np.clip(x + 3, 0, 6) / 6, input, sum_dtype, inplace)


def softplus(
    input: ArrayLike, beta: float = 1, threshold: float = 20, *, sum_dtype: DTypeLike = np.float64
) -> NDArray:
    """log(1 + e^(βx)) / β, and x where βx > threshold."""
    return _map(
        lambda x: np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta),
        input,
        sum_dtype,
    )


def gelu(
    input: ArrayLike, approximate: str = "none", *, sum_dtype: DTypeLike = np.float64
) -> NDArray:
    """x · Φ(x), Φ the normal distribution; "tanh": x/2 · (1 + tanh(√(2/π) · (x + 0.044715x³))).

    Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    """
    if approximate == "tanh":
        # 1 + tanh(u) = 2 / (1 + e^-2u), which does not cancel for negative u.
        return _map(
            lambda x: x * _logistic(np.sqrt(8 / _pi(x)) * (x + x.dtype.type("0.044715") * x**3)),
            input,
            sum_dtype,
        )
    return _map(lambda x: x * np.where(x < 0, _tail(-x), 1 - _tail(x)), input, sum_dtype)


def _pi(x: NDArray) -> np.floating:
    """π in the type of x."""
    return 4 * np.arctan(x.dtype.type(1))


def _tail(z: NDArray) -> NDArray:
    """∫ from z of e^(-t²/2) / √(2π) dt = e^(-z²/2) / √(2π) · ∫ from 0 of e^(-u²/2 - zu) du.

    The trapezoidal rule after u = exp(v - exp(-v)), which makes the integrand fall doubly
    exponentially on both sides (Takahasi and Mori, 1974), is exact to longdouble at this step.
    """
    z, step = abs(z), z.dtype.type(1) / 32
    total = 0
    for v in np.arange(-4 * 32, 3 * 32) * step:
        u = np.exp(v - np.exp(-v))
        total = total + np.exp(-u * (u / 2 + z)) * u * (1 + np.exp(-v)) * step
    return np.exp(-z * z / 2) / np.sqrt(2 * _pi(z)) * total
