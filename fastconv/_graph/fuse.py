"""Activations and sums become part of the step before them, scales of the step after them; the bits are
those of separate steps.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv import _core
from fastconv._graph.op import Op, Ops

_WITH_ACTIVATION = ("conv", "linear", "scale", "gate", "add")
_WITH_RESIDUAL = ("conv", "gate")
# Channels that are scaled while they are packed, at most: all of a few vectors lie in the workspace.
_MOST_SCALED = 4096
# Pixels of a gated image: of fewer the convolution would run along channels, which cannot scale.
_LEAST_GATED = 128


def fuse(ops: Ops) -> None:
    """Sums first, so that an activation after one joins it; then those of what an activation gave."""
    _shuffles(ops)
    _sums(ops)
    _activations(ops)
    _sums(ops)
    _scales(ops)


def _shuffles(ops: Ops) -> None:
    """A shuffle of a stack is a stack whose inputs alternate, if these are the shuffle's groups."""
    alone = ops.alone()
    for op in ops.steps:
        stack = op.inputs[0] if op.kind == "shuffle" else None
        if stack is None or stack.kind != "concat" or not alone(stack, op):
            continue
        if "step" in stack.settings:  # a shuffle already
            continue
        sizes = {source.shape[1] for source in stack.inputs}
        groups = op.settings["groups"]
        if stack.settings["axis"] == 1 and len(stack.inputs) == groups and len(sizes) == 1:
            _take_over(op, stack, stack.inputs, step=groups)
    ops.drop_unused()


def _sums(ops: Ops) -> None:
    """conv(x) + y and act(conv(x)) + y are one step: of two convolutions, the one that comes last."""
    alone = ops.alone()
    place = {op: i for i, op in enumerate(ops.steps)}
    for op in ops.steps:
        if op.kind != "add":
            continue
        for last, other in _ordered(op.inputs, place):
            free = not last.settings.get("residual") and op.settings.get("activation") is None
            if last.kind in _WITH_RESIDUAL and free and alone(last, op):
                when = "first" if last.settings.get("activation") is None else "last"
                _take_over(op, last, [*last.inputs, other], residual=when)
                break
    ops.drop_unused()


def _ordered(pair: list[Op], place: dict[Op, int]) -> list[tuple[Op, Op]]:
    first, last = sorted(pair, key=place.__getitem__)
    return [(last, first), (first, last)]


def _activations(ops: Ops) -> None:
    alone = ops.alone()
    for op in ops.steps:
        before = op.inputs[0] if op.kind == "activation" else None
        if before is None or before.kind not in _WITH_ACTIVATION or not alone(before, op):
            continue
        if before.settings.get("activation") is None:
            _take_over(op, before, before.inputs, activation=op.settings["activation"])
    ops.drop_unused()


def _scales(ops: Ops) -> None:
    """Normalisation and activation before a 1x1 convolution, of DenseNet, or the gate of squeeze and excitation:
    what it packs is scaled.
    """
    if _core.options.get()[1] not in (None, "auto"):
        return  # few algorithms can
    users, alone = ops.users(), ops.alone()
    for op in ops.steps:
        scale = op.inputs[0] if op.kind == "conv" else None
        if scale is None or scale.kind not in ("scale", "gate") or not alone(scale, op):
            continue
        source, *weight = scale.inputs
        if weight and (scale.settings.get("residual") or not _gates_pixels(op, *weight, users)):
            continue
        if _reads_each_pixel_once(op) and _lies_in_planes(source, users[source]):
            op.inputs = [source, *weight, *op.inputs[1:]]
            fused = scale.settings.get("op", scale.kind), *scale.settings.get("fused", ())
            op.settings["prologue"] = scale.settings.get("activation") or (None, ())
            op.settings["begins_with"] = fused
            if weight:
                op.arrays["shift"] = np.zeros(source.shape[1], op.dtype)
                op.settings["gated"] = True
            else:
                op.arrays |= {"scale": scale.arrays["weight"], "shift": scale.arrays["bias"]}
    ops.drop_unused()


def _gates_pixels(op: Op, weight: Op, users: dict[Op, list[Op]]) -> bool:
    """Whether a gate's numbers are a vector for sure, and its pixels enough for the convolution to run along them."""
    batch, _, *size = op.shape
    return (
        batch == 1
        and prod(size) >= _LEAST_GATED
        and weight.kind != "view"
        and len(users[weight]) == 1
    )


def _reads_each_pixel_once(op: Op) -> bool:
    stride, padding, _, _, groups = op.settings["options"]
    kernel = op.arrays["weight"].shape[2:]
    once = prod(kernel) == 1 and not op.settings["transposed"] and groups == 1
    return once and np.all(np.equal(stride, 1)) and not np.any(padding)


def _lies_in_planes(source: Op, users: list[Op]) -> bool:
    """Whether the pixels of each channel are sure to lie side by side: views and stacks of rows may not."""
    stacks = [user.settings["axis"] for user in users if user.kind == "concat"]
    return (
        source.kind != "view"
        and all(axis < 2 for axis in stacks)
        and source.shape[1] <= _MOST_SCALED
    )


def _take_over(op: Op, before: Op, inputs: list[Op], **settings: object) -> None:
    """`op` becomes the step before it with more to do, in the place where op stands."""
    fused = (*before.settings.get("fused", ()), op.settings.get("op", op.kind))
    op.kind, op.name, op.arrays, op.inputs = before.kind, before.name, before.arrays, inputs
    op.settings = {**before.settings, "fused": fused, **settings}
