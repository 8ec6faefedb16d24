"""Batch normalisation with running statistics is x * scale + shift a channel.

After a convolution or a linear layer that nobody else looks at, both become part of its weights and
bias; elsewhere they are a step of their own, `scale`. They are computed in float64 and rounded once,
so results differ from the normalisation's own in the last bits: the weights carry one rounding more,
the sum loses the normalisation's own.
"""

from __future__ import annotations

import numpy as np

from fastconv._graph.op import Op, Ops


def fold(ops: Ops) -> dict[Op, str]:
    """Takes every batch normalisation apart. Returns what became of each, in words."""
    told, changes, alone = {}, {}, ops.alone()
    for op in ops.steps:
        if op.kind != "batch_norm":
            continue
        scale, shift = scale_and_shift(op)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            continue
        before = changes.get(op.inputs[0], op.inputs[0])
        if before.kind in ("conv", "linear") and alone(op.inputs[0], op):
            if _into_weights(before, scale, shift):
                before.settings["folded"] = (*before.settings.get("folded", ()), op.name)
                changes[op] = before
                told[op] = f"folded into {before.name}"
                continue
        op.kind, op.function = "scale", None
        op.arrays = {"weight": scale.astype(op.dtype), "bias": shift.astype(op.dtype)}
        told[op] = "x * scale + shift"
    ops.replace(changes)
    return told


def scale_and_shift(op: Op) -> tuple[np.ndarray, np.ndarray]:
    """float64 vectors a, b with (x - mean) / sqrt(var + eps) * weight + bias = x * a + b."""
    wide = {name: None if a is None else a.astype(np.float64) for name, a in op.arrays.items()}
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(wide["var"] + op.settings["eps"])
        if wide["weight"] is not None:
            scale = scale * wide["weight"]
        shift = -wide["mean"] * scale
        return scale, shift if wide["bias"] is None else shift + wide["bias"]


def _into_weights(op: Op, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Changes the op's arrays; not where something would become infinite that was not."""
    weight, bias = op.arrays["weight"], op.arrays["bias"]
    with np.errstate(all="ignore"):
        new_weight = weight
        if any(weight.strides):  # else it stands for weights that were folded for an earlier plan
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
