"""Activations and layer normalisation that were written as products and sums, as exporters to ONNX do.

The engine's own differ from the steps they stand for by rounding alone: constants are compared within
what float32 may have lost of them.
"""

from __future__ import annotations

from functools import partial
from math import isclose, sqrt

import numpy as np

from fastconv import _core
from fastconv._graph.op import Op, Ops

_NEAR = 1e-6


def find(ops: Ops) -> None:
    """Products x * f(x) become activations where f is known, products with a number a channel gates;
    quotients of deviations and their root of squares become normalisation.
    """
    for op in reversed(ops.steps):  # so that what follows the quotient comes before it
        _layer_norm(op)
    ops.drop_unused()
    alone = ops.alone()
    for op in ops.steps:
        if op.kind == "affine" and op.inputs[0].kind == "multiply" and alone(op.inputs[0], op):
            _, factor, term = _peeled(op)
            name = term == 0 and _activation(op.inputs[0], factor)
            if name:
                _becomes(op, name, op.inputs[0])
    for op in ops.steps:
        if op.kind == "multiply":
            name = _activation(op, 1.0)
            if name:
                _becomes(op, name, op)
            else:
                _gate(op)
    ops.drop_unused()


def _becomes(op: Op, name: str, product: Op) -> None:
    op.inputs = [_of(product)[0]]
    op.kind, op.function = "activation", None
    op.settings = {"op": name, "activation": (name, ())}


def _peeled(op: Op) -> tuple[Op, float, float]:
    """(x, a, b) with op = x * a + b, both numbers."""
    s = op.settings
    if op.kind == "affine" and s["factor"].size == s["term"].size == 1:
        return op.inputs[0], s["factor"].item(), s["term"].item()
    return op, 1.0, 0.0


def _of(product: Op) -> tuple[Op, float, Op | None]:
    """(x, a, f) of a product x * a * f, where f has x for its argument; f is None if there is none."""
    for one, f in (product.inputs, product.inputs[::-1]):
        inner = _peeled(f)[0]
        if inner.kind != "activation":
            continue
        source, a, b = _peeled(one)
        for x, scale in ((one, 1.0), (source, a) if b == 0 else (one, 1.0)):
            if x in (inner.inputs[0], _peeled(inner.inputs[0])[0]):
                return x, scale, f
    return product, 1.0, None


def _activation(product: Op, factor: float) -> str | None:
    """The name of x -> product * factor."""
    x, a, f = _of(product)
    if f is None:
        return None
    inner, p, q = _peeled(f)
    argument, s, t = (x, 1.0, 0.0) if inner.inputs[0] is x else _peeled(inner.inputs[0])
    if argument is not x:
        return None
    name, parameters = inner.settings["activation"]
    whole = factor * a * p
    if name == "erf":
        found = _near((s, sqrt(0.5)), (whole, 0.5), (p, q)) and t == 0
        return "gelu" if found else None
    if name == "sigmoid":
        return "silu" if (s, t, q) == (1, 0, 0) and _near((whole, 1)) else None
    if name in ("clip", "relu6"):
        low, high = parameters or (0.0, 6.0)
        found = low == q == 0 and s != 0 and _near((high / s, 6), (t / s, 3), (whole * s, 1 / 6))
        return "hardswish" if found else None
    if name == "hardsigmoid":
        return "hardswish" if (s, t, q) == (1, 0, 0) and _near((whole, 1)) else None
    return None


def _near(*pairs: tuple[float, float]) -> bool:
    return all(isclose(a, b, rel_tol=_NEAR) for a, b in pairs)


def _gate(op: Op) -> None:
    """Squeeze and excitation (Hu et al. 2018): one factor is a number a channel."""
    for x, weight in (op.inputs, op.inputs[::-1]):
        same = x.shape == op.shape and x.dtype == weight.dtype == op.dtype
        if same and weight.shape == (*x.shape[:2], *(1,) * (len(x.shape) - 2)) and len(x.shape) > 2:
            op.kind, op.function, op.inputs = "gate", None, [x, weight]
            return


# --- layer normalisation (Ba et al. 2016) -------------------------------------------------------


def _layer_norm(op: Op) -> None:
    """(x - mean) / sqrt(mean of its squares + eps), then * factor + term along the last axis, if that is there."""
    s, quotient = op.settings, op
    if op.kind == "affine":
        last = s["axis"] == len(op.shape) - 1
        if not last and s["factor"].size * s["term"].size > 1:
            return
        quotient = op.inputs[0]
    found = _deviations_over_root(quotient)
    if found is None:
        return
    x, eps = found
    wanted = (s["factor"], s["term"]) if op is not quotient else (np.ones(()), np.zeros(()))
    scale, shift = (np.broadcast_to(each, x.shape[-1:]).astype(x.dtype) for each in wanted)
    if np.isfinite(scale).all() and np.isfinite(shift).all():
        op.kind, op.inputs, op.function = "norm", [x], None
        make = partial(_core.layer_norm_step, eps, scale, shift)
        op.settings = {"op": "layer_norm", "make": make, "in_place": True}


def _deviations_over_root(op: Op) -> tuple[Op, float] | None:
    """(x, eps)"""
    quotient = _does(op, "divide", 6, 3, 2) or _does(op, "true_divide", 6, 3, 2)
    root = op.inputs[1] if quotient else None
    if root is None or op.dtype not in (np.float32, np.float64) or not _does(root, "sqrt", 9, 3):
        return None
    deviations = op.inputs[0]
    variance, factor, eps = _peeled(root.inputs[0])
    squares = _cast(_mean_of(variance))
    if factor != 1 or squares is None or not _does(deviations, "subtract", 5, 3, 2):
        return None
    twice = squares.kind == "multiply" and squares.inputs == [deviations] * 2
    if not twice and not (_does(squares, "power", 3, 9) and squares.inputs == [deviations]):
        return None
    x, mean = deviations.inputs
    same = x.shape == op.shape and x.dtype == op.dtype == mean.dtype == root.dtype == squares.dtype
    return (x, eps) if same and _mean_of(mean) is x else None


def _does(op: Op, name: str, *numbers: float) -> bool:
    """Whether it is NumPy's function of that name, which gives the last of the numbers for the others."""
    *given, result = numbers
    if op.kind != "call" or op.settings.get("op") != name or len(op.inputs) != len(given):
        return False
    one = (1,) * len(op.shape)
    return op.function(*(np.full(one, x, op.dtype) for x in given)).item() == result


def _mean_of(op: Op) -> Op | None:
    """x, if it is the mean along its last axis."""
    means = op.kind == "pool" and op.settings["op"] == "global_avg_pool"
    means = means or (op.kind == "call" and op.settings.get("op") == "mean")
    x = op.inputs[0] if means and len(op.inputs) == 1 else None
    return x if x is not None and x.shape[-1] > 1 and op.shape == (*x.shape[:-1], 1) else None


def _cast(op: Op | None) -> Op | None:
    """What is cast to the type that it has."""
    while op is not None and op.settings.get("op") == "astype" and op.inputs[0].dtype == op.dtype:
        op = op.inputs[0]
    return op
