"""What NumPy alone can do, written as one would write it by hand: two ways for each op.

`im2col+matmul` copies every patch into a matrix and multiplies once a group.
`windows+einsum` is the definition on a strided view, without a matrix.
For pooling the same two ideas are `taps` (combine shifted views) and `windows` (reduce a view).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.problems import Problem

Run = Callable[[], np.ndarray]


def prepare(name: str, problem: Problem, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """The call to time. ValueError where the way does not fit the op."""
    ways = CONV if problem.is_conv else POOL
    if name not in ways:
        raise ValueError(f"cannot: {name} is not a way to compute {problem.op}")
    if not problem.plain:
        raise ValueError(f"cannot: {name} is written for ordinary two-dimensional problems")
    return lambda: ways[name](problem, x, *parameters)


def im2col_matmul(p: Problem, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None):
    """y[g] = w[g] (oc, k) times patches[g] (k, oh * ow)."""
    batch, _, oh, ow = p.output_shape
    patches = _windows(p, x).transpose(0, 1, 4, 5, 2, 3)
    patches = patches.reshape(batch, p.groups, p.terms, oh * ow)
    y = np.matmul(weight.reshape(p.groups, p.oc // p.groups, p.terms), patches)
    return _plus(y.reshape(p.output_shape), bias)


def windows_einsum(p: Problem, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None):
    """y[b,g,o,h,w] = sum over i, p, q of windows[b,g,i,h,w,p,q] weight[g,o,i,p,q]."""
    windows = _windows(p, x)
    windows = windows.reshape(p.batch, p.groups, p.ic // p.groups, *windows.shape[2:])
    weight = weight.reshape(p.groups, p.oc // p.groups, *weight.shape[1:])
    if p.groups == 1:  # a sum without a batch axis reaches BLAS
        y = np.einsum("bihwpq,oipq->bohw", windows[:, 0], weight[0], optimize=True)
    else:
        y = np.einsum("bgihwpq,goipq->bgohw", windows, weight, optimize=True)
    return _plus(y.reshape(p.output_shape), bias)


def pool_taps(p: Problem, x: np.ndarray):
    """Combine kh * kw shifted, strided views."""
    windows = _windows(p, x)
    combine = np.maximum if p.op == "max_pool2d" else np.add
    y = windows[..., 0, 0].copy()
    for i, j in list(np.ndindex(p.kh, p.kw))[1:]:
        combine(y, windows[..., i, j], out=y)
    if p.op == "avg_pool2d":
        y /= p.kh * p.kw
    return y


def pool_windows(p: Problem, x: np.ndarray):
    """Reduce the window axes of one view."""
    windows = _windows(p, x)
    return windows.max((-1, -2)) if p.op == "max_pool2d" else windows.mean((-1, -2))


def _windows(p: Problem, x: np.ndarray) -> np.ndarray:
    """(batch, ic, oh, ow, kh, kw): a view of the padded image."""
    _, _, oh, ow = p.output_shape
    below = max((oh - 1) * p.sh + p.kh - p.ih - p.ph, 0)
    right = max((ow - 1) * p.sw + p.kw - p.iw - p.pw, 0)
    if p.ph or p.pw or below or right:
        fill = -math.inf if p.op == "max_pool2d" else 0
        edges = (0, 0), (0, 0), (p.ph, below), (p.pw, right)
        x = np.pad(x, edges, constant_values=fill)
    views = sliding_window_view(x, (p.kh, p.kw), axis=(2, 3))
    return views[:, :, : oh * p.sh : p.sh, : ow * p.sw : p.sw]


def _plus(y: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return y if bias is None else y + bias[:, None, None]


CONV = {"im2col+matmul": im2col_matmul, "windows+einsum": windows_einsum}
POOL = {"taps": pool_taps, "windows": pool_windows}
