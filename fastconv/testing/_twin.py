"""The quick twin of the reference: a convolution as one matrix product in float64.

Exact where sums of integers stay below 2**53, and within float64's rounding of reals.
`fastconv.reference` is slow and plain; this is fast, and a sample of cases compares the two.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.testing._cases import Case


def sums(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution without bias, (batch, oc, *out_size), in the arrays' common type."""
    seen, w = products(case, x, w)
    y = np.matmul(w, seen).reshape(case.oc, case.batch, *case.out_size)
    return y.swapaxes(0, 1)


def products(case: Case, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What one output of a group sums, in the order of its chain: patches of the image, of shape
    (groups, ic/groups * taps, batch * outputs), and weights, (groups, oc/groups, ic/groups * taps).
    """
    stride, before, after = case.stride, case.before, case.after
    if case.transposed:
        x, w = spread(x, stride), as_forward(case, w)
        reach = [d * (k - 1) for k, d in zip(case.kernel, case.dilation, strict=True)]
        before = [r - p for r, p in zip(reach, before, strict=True)]
        after = [r - q for r, q in zip(reach, after, strict=True)]
        stride = (1,) * case.dims
    x = padded(x, before, after)
    step, *steps = x.strides
    channel, *steps = steps
    shape = (case.groups, case.ic // case.groups, *case.kernel, case.batch, *case.out_size)
    strides = (
        channel * (case.ic // case.groups), channel,
        *(d * n for d, n in zip(case.dilation, steps, strict=True)), step,
        *(s * n for s, n in zip(stride, steps, strict=True)),
    )  # fmt: skip
    seen = np.ndarray(shape, x.dtype, x, 0, strides)
    return seen.reshape(case.groups, case.chain, -1), w.reshape(case.groups, -1, case.chain)


def padded(x: np.ndarray, before, after) -> np.ndarray:
    """x in zeros, C-contiguous; where a padding is negative, without its ends."""
    axes = list(zip(x.shape[2:], before, after, strict=True))
    y = np.zeros((*x.shape[:2], *(n + p + q for n, p, q in axes)), x.dtype)
    place = [(max(p, 0), min(n + p + q, p + n), p) for n, p, q in axes]
    if all(start < end for start, end, _ in place):
        to = [slice(start, end) for start, end, _ in place]
        y[(..., *to)] = x[(..., *(slice(start - p, end - p) for start, end, p in place))]
    return y


def spread(x: np.ndarray, stride) -> np.ndarray:
    """x with stride - 1 zeros between neighbours."""
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    y = np.zeros((*x.shape[:2], *size), x.dtype)
    y[(..., *(slice(None, None, s) for s in stride))] = x
    return y


def as_forward(case: Case, w: np.ndarray) -> np.ndarray:
    """The weights (I, O/groups, ...) of a transposed convolution as those, (O, I/groups, ...), of the
    convolution that it is of the spread image."""
    w = w.reshape(case.groups, -1, *w.shape[1:]).swapaxes(1, 2)
    w = w[(..., *(slice(None, None, -1),) * case.dims)]
    return w.reshape(case.oc, -1, *case.kernel)


def chain(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The contract's bits: each output a chain of fused multiply-adds from +0 over its products.

    A product with a zero between or beside the pixels of a transposed convolution's image adds
    a zero, which changes no sum that began at +0; so for finite arrays it may stay in the chain.
    """
    seen, w = products(case, x, w)
    y = np.zeros((case.groups, w.shape[1], seen.shape[2]), x.dtype)
    for k in range(case.chain):
        y = fma(w[:, :, k, None], seen[:, k, None, :], y)
    return y.reshape(case.oc, case.batch, *case.out_size).swapaxes(0, 1)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once, in float32 or float64, where nothing over- or underflows.

    float32: the product is exact in float64, whose sum is rounded to odd, so that rounding it again
    rounds once. float64: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums:
    proved algorithms using rounding to odd", IEEE Trans. Computers 57 (2008).
    """
    if c.dtype == np.float32:
        return to_odd(a.astype(np.float64) * b, c.astype(np.float64)).astype(np.float32)
    high, low = two_product(a, b)
    small, rest = two_sum(c, low)
    large, more = two_sum(high, small)
    return large + to_odd(more, rest)


def two_sum(a, b):
    """The rounded sum and what rounding took from it (D. Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a, b):
    """The rounded product and what rounding took from it (T. Dekker, G. Veltkamp)."""
    p = a * b
    (x, y), (u, v) = split(a), split(b)
    return p, ((x * u - p) + x * v + y * u) + y * v


def split(a):
    t = a * (2.0**27 + 1)
    high = t - (t - a)
    return high, a - high


def to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b in float64: where it is not exact, the neighbour whose last bit is one."""
    s, rest = two_sum(a, b)
    bits = s.view(np.int64)
    even = (rest != 0) & (bits & 1 == 0)
    # Away from zero if the rest has the sign of the sum, else towards it.
    step = np.where((rest > 0) == (s > 0), 1, -1)
    return np.where(even, bits + step, bits).view(np.float64)


def work(case: Case) -> int:
    """Elements of the patches that `products` makes, which is what the twin costs."""
    return case.batch * case.ic * prod(case.kernel) * prod(case.out_size)
