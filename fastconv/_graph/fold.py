"""x * factor + term with constants: normalisation with running statistics, products and sums with numbers.

One after another they become one; after a convolution or a linear layer that nobody else looks at, it
becomes part of its weights and bias; elsewhere it is a step of its own, `scale`. All is computed in
float64 and rounded once, so results differ from those of separate steps in the last bits: weights carry
one rounding more, sums lose those of the steps between.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np

from fastconv._graph import patterns
from fastconv._graph.op import Op, Ops


def fold(ops: Ops) -> None:
    """Takes normalisations, products and sums with constants apart, and finds activations among them."""
    for op in ops.steps:
        if op.kind == "batch_norm":
            _as_affine(op)
    _join(ops)
    patterns.find(ops)
    _into_layers(ops)
    for op in ops.steps:
        if op.kind == "affine":
            _as_scale(op)


def _as_affine(op: Op) -> None:
    factor, term = scale_and_shift(op)
    if np.isfinite(factor).all() and np.isfinite(term).all():
        op.kind, op.arrays = "affine", {}
        op.settings |= {"factor": factor, "term": term, "axis": 1}


def scale_and_shift(op: Op) -> tuple[np.ndarray, np.ndarray]:
    """float64 vectors a, b with (x - mean) / sqrt(var + eps) * weight + bias = x * a + b."""
    wide = {name: None if a is None else a.astype(np.float64) for name, a in op.arrays.items()}
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(wide["var"] + op.settings["eps"])
        if wide["weight"] is not None:
            scale = scale * wide["weight"]
        shift = -wide["mean"] * scale
        return scale, shift if wide["bias"] is None else shift + wide["bias"]


def _join(ops: Ops) -> None:
    """The second of two that follow one another does what both do."""
    alone = ops.alone()
    for op in ops.steps:
        before = op.inputs[0] if op.kind == "affine" else None
        if before is None or before.kind != "affine" or not alone(before, op):
            continue
        first, second = before.settings, op.settings
        sizes = {each["axis"] for each in (first, second) if _vectors(each)}
        if len(sizes) > 1:
            continue
        with np.errstate(all="ignore"):
            factor = first["factor"] * second["factor"]
            term = first["term"] * second["factor"] + second["term"]
        if not (np.isfinite(factor).all() and np.isfinite(term).all()):
            continue
        names = (*first.get("fused", ()), first["op"], *second.get("fused", ()))
        op.settings |= {
            "factor": factor,
            "term": term,
            "fused": names,
            "axis": max(sizes, default=1),
        }
        op.function = _after(before.function, op.function)
        op.inputs, op.name = before.inputs, before.name
    ops.drop_unused()


def _vectors(settings: dict) -> bool:
    return settings["factor"].ndim > 0 or settings["term"].ndim > 0


def _after(first: Callable, second: Callable) -> Callable:
    return lambda x: second(first(x))


def _into_layers(ops: Ops) -> None:
    changes, alone = {}, ops.alone()
    for op in ops.steps:
        if op.kind != "affine":
            continue
        before = changes.get(op.inputs[0], op.inputs[0])
        axis = {"conv": 1, "linear": len(op.shape) - 1}.get(before.kind)
        meets = axis is not None and (not _vectors(op.settings) or op.settings["axis"] == axis)
        if meets and alone(op.inputs[0], op) and _into_weights(before, *_numbers(op, axis)):
            before.settings["folded"] = (*before.settings.get("folded", ()), *_names(op))
            before.settings["key"] = (*before.settings["key"], _digest(op))
            changes[op] = before
    ops.replace(changes)


def _names(op: Op) -> tuple[str, ...]:
    return (*op.settings.get("fused", ()), op.settings["op"])


def _numbers(op: Op, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """factor and term, one an index of the axis."""
    size = op.shape[axis]
    return tuple(np.broadcast_to(op.settings[name], size) for name in ("factor", "term"))


def _digest(op: Op) -> bytes:
    numbers = op.settings["factor"].tobytes() + b"," + op.settings["term"].tobytes()
    return sha256(numbers).digest()


def _into_weights(op: Op, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Changes the op's arrays; not where something would become infinite that was not."""
    weight, bias = op.arrays["weight"], op.arrays["bias"]
    with np.errstate(all="ignore"):
        new_weight = weight
        # A weight without strides stands for one that was folded for an earlier plan.
        if any(weight.strides) and (scale != 1).any():
            new_weight = (weight * _along_outputs(op, scale)).astype(weight.dtype)
        new_bias = shift if bias is None else shift + bias * scale
        new_bias = new_bias.astype(weight.dtype)
    if not (np.isfinite(new_bias).all() and np.isfinite(new_weight).all()):
        return False
    op.arrays = {"weight": new_weight, "bias": new_bias}
    return True


def _along_outputs(op: Op, scale: np.ndarray) -> np.ndarray:
    """The vector as an array that meets the weight's axis of output channels."""
    weight = op.arrays["weight"]
    rest = (1,) * (weight.ndim - 2)
    if not op.settings.get("transposed"):
        return scale.reshape(-1, 1, *rest)
    groups = op.settings["options"][-1]
    each = scale.reshape(groups, 1, -1)
    return np.repeat(each, weight.shape[0] // groups, axis=1).reshape(*weight.shape[:2], *rest)


def _as_scale(op: Op) -> None:
    """A step of the engine, if it goes by channels."""
    if len(op.shape) < 2 or (_vectors(op.settings) and op.settings["axis"] != 1):
        return
    factor, term = (each.astype(op.dtype) for each in _numbers(op, 1))
    if np.isfinite(factor).all() and np.isfinite(term).all():
        op.settings["key"] = (_digest(op), op.shape[1])
        op.kind, op.function = "scale", None
        op.arrays = {"weight": factor, "bias": term}
