"""What is neither convolution nor pooling nor activation, and pooling of other element types.

Plain vectorised NumPy on arguments that `_arguments` has judged. Statistics are taken in float64
whatever the type of the array, and results are rounded to that type once.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from math import prod

import numpy as np

from . import _core, _memory

F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)

# inf - inf and overflow are results of these functions, not accidents in them.
quiet = np.errstate(all="ignore")

BLOCK = 1 << 15  # float64 elements that the second cache holds

CUBIC = -0.75  # the parameter a of Keys' kernel that PyTorch uses
SMOOTH_CUBIC = -0.5  # and with antialias=True, as Pillow


def along(v: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """The vector `v` as an array of `ndim` axes that lies along `axis`."""
    return v.reshape(*(-1 if a == axis else 1 for a in range(ndim)))


# --- pooling of element types the engine does not have ------------------------------------------


@quiet
def pool(problem, x: np.ndarray, out: np.ndarray, indices: np.ndarray | None):
    """The door's `pool` for the types that the engine has no kernels for."""
    wide_type = engine_type(x.dtype)
    if wide_type is None:
        max_pool(problem, x, out, indices)
        return
    wide = _memory.empty(out.shape, wide_type)
    _core.pool(problem, x.astype(wide_type), wide, indices)
    if problem.kind == "max" and x.dtype.kind in "biu":  # of a window that lies in padding alone
        np.maximum(wide, lowest(x.dtype), out=wide)
    out[...] = wide


def engine_type(dtype: np.dtype) -> np.dtype | None:
    """The narrowest float type of the engine that holds all values of a type, which has fewer bytes."""
    return next((t for t in (F32, F64) if dtype.itemsize < t.itemsize), None)


def windows(problem) -> list:
    """(first, end, step) per spatial axis: output o covers first[o], first[o] + step, ... < end[o].

    Taps in the padding are left out, in the phase that dilation gives the others.
    """
    found = []
    d = problem.dims
    for n, o, k, s, step, lo in zip(
        problem.size[-d:], problem.out_size[-d:], problem.kernel[-d:], problem.stride[-d:],
        problem.dilation[-d:], problem.pad[-d:], strict=True,
    ):  # fmt: skip
        at = np.arange(o)
        if problem.adaptive:
            found.append((at * n // o, -(-(at + 1) * n // o), 1))
            continue
        start = at * s - lo
        first = np.where(start < 0, start + -(start // step) * step, start)
        found.append((first, np.minimum(start + (k - 1) * step + 1, n), step))
    return found


def lowest(dtype: np.dtype):
    if dtype.kind == "f":
        return -np.inf
    return False if dtype.kind == "b" else np.iinfo(dtype).min


@quiet
def max_pool(problem, x, out, indices):
    """Maximum over windows. NaN wins and stays; of equal values the first gives the index."""
    dims, size = problem.dims, problem.size[-problem.dims :]
    if problem.channels_last:
        x, out = np.moveaxis(x, -1, 1), np.moveaxis(out, -1, 1)
        indices = indices if indices is None else np.moveaxis(indices, -1, 1)
    axes = windows(problem)
    out[...] = lowest(x.dtype)
    if indices is not None:
        starts = [np.minimum(first, n - 1) for (first, _, _), n in zip(axes, size, strict=True)]
        reached = np.ones((1,) * dims, bool)
        for axis, (first, end, _) in enumerate(axes):
            reached = reached & along(first < end, axis, dims)
        indices[...] = np.where(reached, flat_index(starts, size), -1)
    counts = [int(np.max((end - first - 1) // step)) + 1 for first, end, step in axes]
    for taps in product(*map(range, counts)):
        at = [first + t * step for t, (first, _, step) in zip(taps, axes, strict=True)]
        inside = np.ones((1,) * dims, bool)
        for axis, (place, (_, end, _)) in enumerate(zip(at, axes, strict=True)):
            inside = inside & along(place < end, axis, dims)
        at = [np.minimum(place, n - 1) for place, n in zip(at, size, strict=True)]
        value = x[:, :, *np.ix_(*at)]
        better = inside & ((value > out) | (value != value))
        np.copyto(out, value, where=better)
        if indices is not None:
            np.copyto(indices, flat_index(at, size), where=better)


def flat_index(at: list, size: tuple) -> np.ndarray:
    """Row-major positions in a plane of `size` of the grid that the vectors `at` span."""
    flat = np.zeros((1,) * len(size), np.int64)
    for axis, place in enumerate(at):
        flat = flat * size[axis] + along(place, axis, len(size))
    return flat


def max_unpool(x: np.ndarray, indices: np.ndarray, shape: tuple, dims: int) -> np.ndarray:
    """Values put back where `indices` say, zero elsewhere; of several, the last in C order stays."""
    rows, plane = prod(shape[:-dims]), prod(shape[-dims:])
    out = np.zeros(shape, x.dtype)
    values = np.ascontiguousarray(x).reshape(rows, prod(x.shape[-dims:]))
    places = np.ascontiguousarray(indices, np.int64).reshape(values.shape)
    if not _core.unpool(values, places, out.reshape(rows, plane)):
        raise IndexError("max_unpool: indices changed while they were read")
    return out


@quiet
def lp_root(mean: np.ndarray, count: int, power: float, dtype: np.dtype) -> np.ndarray:
    """What follows the average in power-average pooling, as PyTorch has it."""
    root = (mean * mean.dtype.type(count)) ** mean.dtype.type(1 / power)
    return root.astype(dtype, copy=False)


@quiet
def lp_powers(x: np.ndarray, power: float) -> np.ndarray:
    """What goes into the average; float16 is computed in float32.

    Of a dense copy, as NumPy's powers of arrays with gaps have other bits.
    """
    wide = x.astype(np.float32 if x.dtype == np.float16 else x.dtype.newbyteorder("="), order="K")
    return np.power(wide, wide.dtype.type(power), out=wide)


# --- padding and resampling ---------------------------------------------------------------------


def pad(x: np.ndarray, ends: list, mode: str, value) -> np.ndarray:
    """`x` with (low, high) elements more on each axis, or fewer where they are negative."""
    if mode == "constant":
        shape = [n + lo + hi for n, (lo, hi) in zip(x.shape, ends, strict=True)]
        out = np.full(shape, value, x.dtype)
        inner = tuple(
            slice(max(lo, 0), m - max(hi, 0)) for m, (lo, hi) in zip(shape, ends, strict=True)
        )
        kept = tuple(
            slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, ends, strict=True)
        )
        out[inner] = x[kept]
        return out
    for axis, (lo, hi) in enumerate(ends):
        if (lo, hi) != (0, 0):
            x = x.take(pad_source(x.shape[axis], lo, hi, mode), axis)
    return np.array(x, order="C")


def pad_source(n: int, lo: int, hi: int, mode: str) -> np.ndarray:
    """Which of `n` elements stands at each place of the padded axis."""
    if mode == "circular":  # what is taken away does not come round
        kept = n + min(lo, 0) + min(hi, 0)
        return max(-lo, 0) + np.arange(-max(lo, 0), kept + max(hi, 0)) % max(kept, 1)
    at = np.arange(-lo, n + hi)
    if mode == "replicate":
        return np.clip(at, 0, n - 1)
    at = np.abs(at)
    return np.where(at < n, at, 2 * (n - 1) - at)


@quiet
def interpolate(x, size, factors, mode: str, aligned: bool, smooth: bool) -> np.ndarray:
    """`x` resampled to `size`, one axis after the other, where both methods are separable.

    Positions are computed in the type of the array, as PyTorch does, so that nearest neighbours
    are the same ones. Cubic: R. Keys, "Cubic convolution interpolation for digital image
    processing", IEEE Trans. ASSP 29 (1981), with a = -0.75.
    """
    own = x.dtype
    exact = own.type if own in (np.float32, np.float64) else np.float32
    if not mode.startswith("nearest") and own == np.float16:
        x = x.astype(np.float32)
    for axis in range(x.ndim - 1, 1, -1):
        n, o = x.shape[axis], size[axis - 2]
        step = resample_step(n, o, factors[axis - 2], aligned, exact)
        grid, centre = np.arange(o).astype(exact) * step, centres(o, step, exact)
        if smooth:
            x = antialiased(x, axis, o, step, mode)
        elif mode == "nearest":
            x = x.take(nearest(grid, n), axis)
        elif mode == "nearest-exact":
            x = x.take(nearest(np.maximum(centre, 0) + exact(0.5), n), axis)
        elif mode == "bicubic":
            x = cubic(x, axis, grid if aligned else centre)
        elif n != o:  # PyTorch copies here, whatever the factor
            x = lerp(x, axis, grid if aligned else np.maximum(centre, 0))
    return np.array(x, own, order="C")


def resample_step(n: int, o: int, factor: float | None, aligned: bool, exact):
    """How far apart the sources of two neighbouring outputs lie."""
    if aligned:
        return exact(n - 1) / exact(o - 1) if o > 1 else exact(0)
    return exact(n) / exact(o) if factor is None else exact(1 / factor)


def centres(o: int, step, exact) -> np.ndarray:
    """Where the centres of outputs lie among the centres of inputs.

    Rounded once: PyTorch's kernels are compiled to fused multiply-adds.
    """
    return ((np.arange(o) + 0.5) * float(step) - 0.5).astype(exact)


def nearest(at: np.ndarray, n: int) -> np.ndarray:
    # In float32 whatever the array's type, as PyTorch rounds down.
    return np.minimum(np.floor(at.astype(np.float32)).astype(np.int64), n - 1)


def lerp(x: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    n = x.shape[axis]
    low = np.minimum(at.astype(np.int64), n - 1)
    high = np.minimum(low + 1, n - 1)
    t = along(np.clip(at - low.astype(at.dtype), 0, 1), axis, x.ndim)
    return x.take(low, axis) * (1 - t) + x.take(high, axis) * t


def antialiased(x: np.ndarray, axis: int, o: int, step, mode: str) -> np.ndarray:
    """Weights of a filter stretched to `step` where that is more than 1, divided by their sum."""
    n, wide, radius = x.shape[axis], max(float(step), 1.0), 1 if mode == "bilinear" else 2
    centre = (np.arange(o) + 0.5) * float(step)
    first = np.maximum((centre - radius * wide + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + radius * wide + 0.5).astype(np.int64), n)
    at = first + np.arange((last - first).max())[:, None]
    s = np.abs(at + 0.5 - centre) / wide
    weights = np.maximum(1 - s, 0) if mode == "bilinear" else keys_kernel(s, SMOOTH_CUBIC)
    weights[at >= last] = 0
    weights = (weights / weights.sum(0)).astype(x.dtype)
    total = 0
    for row, weight in zip(np.minimum(at, n - 1), weights, strict=True):
        total = total + x.take(row, axis) * along(weight, axis, x.ndim)
    return total


def cubic(x: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    n = x.shape[axis]
    low = np.floor(at).astype(np.int64)
    t = at - low.astype(at.dtype)
    total = 0
    for tap in range(-1, 3):
        weight = along(keys_kernel(np.abs(t - tap), CUBIC), axis, x.ndim)
        total = total + x.take(np.clip(low + tap, 0, n - 1), axis) * weight
    return total


def keys_kernel(s: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * s - (a + 3)) * s * s + 1
    far = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    return np.where(s <= 1, near, np.where(s < 2, far, 0))


# --- shuffles and patches -----------------------------------------------------------------------


def pixel_shuffle(x: np.ndarray, r: int) -> np.ndarray:
    """out[..., c, h*r + i, w*r + j] = x[..., (c*r + i)*r + j, h, w]."""
    *lead, c, h, w = x.shape
    split = x.reshape(*lead, c // (r * r), r, r, h, w)
    n = len(lead)
    moved = split.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return np.ascontiguousarray(moved).reshape(*lead, c // (r * r), h * r, w * r)


def pixel_unshuffle(x: np.ndarray, r: int) -> np.ndarray:
    """The inverse of `pixel_shuffle`."""
    *lead, c, h, w = x.shape
    split = x.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    moved = split.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return np.ascontiguousarray(moved).reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(x: np.ndarray, groups: int) -> np.ndarray:
    """out[:, i*groups + g] = x[:, g*(C/groups) + i]."""
    split = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(x.shape)


def tap_slices(tap, dilation, stride, count) -> tuple:
    """Where in the padded image the patches have their element `tap`."""
    spans = zip(tap, dilation, stride, count, strict=True)
    return tuple(slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in spans)


def unfold(x, kernel, dilation, padding, stride, count) -> np.ndarray:
    """Patches as columns: out[n, (c*kh + i)*kw + j, patch]."""
    *lead, c, _, _ = x.shape
    x = pad(x, [(0, 0)] * (x.ndim - 2) + [(p, p) for p in padding], "constant", 0)
    out = _memory.empty((*lead, c, *kernel, *count), x.dtype)
    for i, j in product(*map(range, kernel)):
        rows, columns = tap_slices((i, j), dilation, stride, count)
        out[..., i, j, :, :] = x[..., rows, columns]
    return out.reshape(*lead, c * prod(kernel), prod(count))


@quiet
def fold(x, size, kernel, dilation, padding, stride, count) -> np.ndarray:
    """The adjoint of `unfold`: patches added up where they overlap."""
    *lead, rows, _ = x.shape
    c = rows // prod(kernel)
    patches = x.reshape(*lead, c, *kernel, *count)
    out = np.zeros((*lead, c, *(n + 2 * p for n, p in zip(size, padding, strict=True))), x.dtype)
    for i, j in product(*map(range, kernel)):
        at = tap_slices((i, j), dilation, stride, count)
        out[..., *at] += patches[..., i, j, :, :]
    inner = tuple(slice(p, p + n) for n, p in zip(size, padding, strict=True))
    return np.ascontiguousarray(out[..., *inner])


# --- normalisation ------------------------------------------------------------------------------


@quiet
def standardise(x, mean, var, eps, weight, bias) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) * weight + bias in float64, weight and bias one number a channel of (N, C, ...).

    Some planes at a time, which stay in the cache: images take half the time that steps on the whole take.
    """
    planes = prod(x.shape[:2]), prod(x.shape[2:])
    scale = 1 / np.sqrt(var + eps)
    numbers = np.empty((3, *x.shape[:2], *(1,) * (x.ndim - 2)))
    numbers[0] = mean
    numbers[1] = scale if weight is None else scale * along(weight, 1, x.ndim)
    numbers[2] = 0 if bias is None else along(bias, 1, x.ndim)
    mean, scale, shift = numbers.reshape(3, planes[0], 1)
    y = _memory.empty(x.shape, x.dtype)
    flat, to, some = x.reshape(planes), y.reshape(planes), max(1, BLOCK // max(1, planes[1]))
    for start in range(0, planes[0], some):
        at = slice(start, start + some)
        wide = flat[at].astype(np.float64)
        wide -= mean[at]
        wide *= scale[at]
        wide += shift[at]
        to[at] = wide
    return y


@quiet
def moments(x: np.ndarray, axes) -> tuple[np.ndarray, np.ndarray]:
    wide = x.astype(np.float64)
    return wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)


@quiet
def update(running, value, momentum):
    """An exponential moving average, in place."""
    if running is not None:
        running[...] = (1 - momentum) * running + momentum * value


@quiet
def batch_norm(x, mean, var, weight, bias, momentum, eps, training) -> np.ndarray:
    """S. Ioffe, C. Szegedy, "Batch normalization", ICML 2015."""
    if not training:
        mean, var = along(mean, 1, x.ndim), along(var, 1, x.ndim)
        return standardise(x, mean.astype(float), var.astype(float), eps, weight, bias)
    if x.size == 0:  # nothing to take statistics of
        return x.copy()
    own_mean, own_var = moments(x, (0, *range(2, x.ndim)))
    count = x.size // x.shape[1]
    update(mean, own_mean.reshape(-1), momentum)
    update(var, own_var.reshape(-1) * (count / (count - 1)), momentum)
    return standardise(x, own_mean, own_var, eps, weight, bias)


@quiet
def instance_norm(x, mean, var, weight, bias, momentum, eps, use_input_stats) -> np.ndarray:
    """D. Ulyanov et al., "Instance normalization", arXiv:1607.08022."""
    if not use_input_stats:
        return batch_norm(x, mean, var, weight, bias, momentum, eps, False)
    own_mean, own_var = moments(x, tuple(range(2, x.ndim)))
    if x.shape[0]:
        count = prod(x.shape[2:])
        update(mean, own_mean.mean(0).reshape(-1), momentum)
        update(var, own_var.mean(0).reshape(-1) * (count / (count - 1)), momentum)
    return standardise(x, own_mean, own_var, eps, weight, bias)


def group_norm(x, groups, weight, bias, eps) -> np.ndarray:
    """Y. Wu, K. He, "Group normalization", ECCV 2018."""
    batch, channels = x.shape[:2]
    if x.size == 0:
        return x.copy()
    split = x.reshape(batch, groups, -1)
    mean, var = (
        np.repeat(m.reshape(batch, groups), channels // groups, axis=1)
        for m in moments(split, (2,))
    )
    shape = (batch, channels, *(1,) * (x.ndim - 2))
    return standardise(x, mean.reshape(shape), var.reshape(shape), eps, weight, bias)


@quiet
def layer_norm(x, axes: int, weight, bias, eps) -> np.ndarray:
    """J. Ba et al., "Layer normalization", arXiv:1607.06450."""
    if x.size == 0:
        return x.copy()
    if x.dtype in (F32, F64) and all(
        each is None or each.dtype == x.dtype for each in (weight, bias)
    ):
        shape = x.shape[-axes:]
        scale = np.ones(shape, x.dtype) if weight is None else np.ascontiguousarray(weight)
        shift = np.zeros(shape, x.dtype) if bias is None else np.ascontiguousarray(bias)
        return _stepped(partial(_core.layer_norm_step, eps, scale, shift), x)
    mean, var = moments(x, tuple(range(x.ndim - axes, x.ndim)))
    y = (x - mean) / np.sqrt(var + eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).astype(x.dtype)


@quiet
def local_response_norm(x, size, alpha, beta, k) -> np.ndarray:
    """x / (k + alpha * mean of squares over `size` channels)**beta, zeros beyond the channels.

    A. Krizhevsky et al., "ImageNet classification with deep convolutional neural networks",
    NIPS 2012, where alpha multiplies the sum.
    """
    wide = x.astype(np.float64)
    channels = x.shape[1]
    total = np.zeros_like(wide)
    for shift in range(-min(size // 2, channels), min((size - 1) // 2, channels) + 1):
        here = slice(max(-shift, 0), channels - max(shift, 0))
        there = slice(max(shift, 0), channels - max(-shift, 0))
        total[:, here] += wide[:, there] ** 2
    return (wide / (k + alpha * total / size) ** beta).astype(x.dtype)


@quiet
def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """x - log(sum(exp(x))), from the maximum down so that nothing overflows."""
    if x.size == 0:
        return x.copy()
    wide = np.atleast_1d(x).astype(np.float64)
    wide -= wide.max(axis, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis, keepdims=True))
    return wide.astype(x.dtype).reshape(x.shape)


@quiet
def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x)), from the maximum down so that nothing overflows."""
    if x.size == 0:
        return x.copy()
    if x.dtype in (F32, F64) and axis % max(x.ndim, 1) == x.ndim - 1:
        return _stepped(_core.softmax_step, x)
    wide = np.atleast_1d(x).astype(np.float64)
    wide = np.exp(wide - wide.max(axis, keepdims=True))
    return (wide / wide.sum(axis, keepdims=True)).astype(x.dtype).reshape(x.shape)


def local_response(x: np.ndarray, before: int, after: int, scale: float, bias: float) -> np.ndarray:
    """x / (bias + scale * s)^(3/4), s the sum of the squares of so many channels before and after each."""
    make = partial(_core.local_response_step, before, after, scale, bias)
    return _stepped(make, x) if x.size else x.copy()


def _stepped(make, x: np.ndarray) -> np.ndarray:
    """What a step of the engine gives on one array."""
    y = _memory.empty(x.shape, x.dtype)
    _core.run(make(np.ascontiguousarray(x), y))
    return y


@quiet
def dropout(x: np.ndarray, p: float, inplace: bool) -> np.ndarray:
    """Each element zero with probability p, else divided by 1 - p.

    N. Srivastava et al., "Dropout", JMLR 15 (2014).
    """
    kept = np.random.default_rng().random(x.shape, np.float32) >= p
    y = np.where(kept, x / x.dtype.type(1 - p if p < 1 else 1), x.dtype.type(0))
    if inplace:
        x[...] = y
        return x
    return y


# --- activations of any strides -----------------------------------------------------------------


def dense_axes(x: np.ndarray) -> tuple:
    """The axes from the widest stride to the narrowest, so that a transposed view is read as C."""
    return tuple(sorted(range(x.ndim), key=lambda a: -abs(x.strides[a])))


@quiet
def activate(name: str, parameters, x: np.ndarray) -> tuple:
    """The engine's activation on an array of any strides; float16 is computed in float32.

    The result, the door's plan or None, and the array that it took.
    """
    axes = dense_axes(x)
    wide = F32 if x.dtype == np.float16 else x.dtype
    flat = np.ascontiguousarray(x.transpose(axes), wide)
    y = _memory.empty(flat.shape, wide)
    plan = _core.activate(name, parameters, flat, y) if y.size else None
    back = sorted(range(x.ndim), key=axes.__getitem__)
    y = y.astype(x.dtype, copy=False).reshape([x.shape[a] for a in axes]).transpose(back)
    return y, plan, flat


@quiet
def prelu(x: np.ndarray, slopes: np.ndarray) -> tuple:
    """max(x, 0) + slope * min(x, 0), a slope per channel or one for all.

    The result, the door's plan or None, and the arrays that it took.
    """
    wide = F32 if x.dtype == np.float16 else x.dtype
    shape = (1, 1, -1) if slopes.size == 1 else (*x.shape[:2], -1)
    y, plan, taken = _memory.empty(x.shape, wide), None, None
    if y.size:
        flat = np.ascontiguousarray(x, wide).reshape(shape)
        taken = flat, np.ascontiguousarray(slopes, wide), None
        plan = _core.prelu(taken[1], flat, y.reshape(shape))
    return y.astype(x.dtype, copy=False), plan, taken


# --- weights of other libraries -----------------------------------------------------------------


def from_hwio(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))


def from_keras_depthwise(w: np.ndarray) -> np.ndarray:
    *kernel, channels, multiplier = w.shape
    moved = np.moveaxis(w, (-2, -1), (0, 1))
    return np.ascontiguousarray(moved).reshape(channels * multiplier, 1, *kernel)
