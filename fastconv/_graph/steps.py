"""Ops as steps of a `_core.Program`: arguments are judged and plans made once, on the arrays of a plan.

What the engine does not do is a `Call` of Python between two programs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastconv import _arguments, _core, _numpy_ops
from fastconv._graph.op import Op
from fastconv._graph.weights import Weights

_ENGINE = (np.float32, np.float64)
_MOST_PIECES = 64  # of a copy whose rows are not evenly spaced


class Call:
    """`function(*xs, y)` on arrays of the arena; y is None for a step whose results are kept loose."""

    def __init__(self, function: Callable[..., Any], *arrays: np.ndarray | None) -> None:
        self.function, self.arrays = function, arrays


Piece = Call | _core.Step


def pieces_of(op: Op, xs: list[np.ndarray], y: np.ndarray, weights: Weights | None) -> list[Piece]:
    """What carries out an op: takes `xs`, writes `y`. A stack has its rule in `plan`."""
    return _RULES[op.kind](op, xs, y, weights)


# --- convolutions -------------------------------------------------------------------------------


def _conv(op: Op, xs: list[np.ndarray], y: np.ndarray, weights: Weights | None) -> list[Piece]:
    """A convolution, linear layer, scale or gate, with what is fused into it."""
    w = xs[1] if weights is None else weights.like()
    (problem, x, w), door = _JUDGES[op.kind](op, xs, w, y)
    name, parameters = op.settings.get("activation") or (None, ())
    out, residual, after = door(y), None, []
    when = op.settings.get("residual")
    if when:
        residual = door(xs[-1])
        if _arguments.lies_as(residual, out):
            problem = problem._replace(residual=when)
        elif when == "last":
            residual, after = None, _mapped(None, (), y, y, xs[-1])
        else:  # within a stack of a larger batch
            residual, after, name = None, _mapped(name, parameters, y, y, xs[-1]), None
    problem = problem._replace(
        activation=name, parameters=parameters, prologue=op.settings.get("prologue")
    )
    prepared = None
    if weights is not None and weights.packs(problem):
        prepared = weights.packed
    if weights is not None:
        arrays = _core._Array(x), _core._Array(w), _core._Array(out, True)
        weights.pack(_core.ConvPlan(problem, *arrays, prepared is not None))
    bias, scale, shift = (op.arrays.get(each) for each in ("bias", "scale", "shift"))
    if op.settings.get("gated"):
        scale = xs[1].reshape(op.takes(1))
    step = _core.conv_step(problem, x, w, bias, out, prepared, residual, scale, shift)
    return [step, *after]


# Each gives (problem, x, weight) as the door takes them, and how the door sees what lies as the result. No reshape
# here may copy: `Op.takes` says what the layout has to see to.


def _judged_conv(op: Op, xs: list[np.ndarray], w: np.ndarray, _: np.ndarray) -> tuple:
    s = op.settings
    problem, x, w, *_ = _arguments.convolution(
        s["op"], s["dims"], s["transposed"], xs[0], w, op.arrays["bias"], *s["options"],
        None, None, None, None, allocate=False,
    )  # fmt: skip
    return (problem, x, w), lambda y: _door_view(problem, y)


def _judged_linear(op: Op, xs: list[np.ndarray], w: np.ndarray, _: np.ndarray) -> tuple:
    rows = xs[0].reshape(op.takes(0))
    problem, x, w, *_ = _arguments.linear("linear", rows, w, op.arrays["bias"], allocate=False)
    return (problem, x, w), lambda y: y.reshape(problem.batch, problem.oc, 1, 1, 1)


def _judged_scale(op: Op, xs: list[np.ndarray], w: np.ndarray, y: np.ndarray) -> tuple:
    """A depthwise convolution, of planes that are made rows where all of them lie as such."""
    x, planes = xs[0], op.lies(xs[0].shape)
    space = planes[2:] or (1,)
    row = (*planes[:2], prod(space))
    if all(np.may_share_memory(each.reshape(row), each) for each in (*xs, y)):
        space = row[2:]
    shape, dims = (*planes[:2], *space), len(space)
    problem, x, w, *_ = _arguments.convolution(
        f"conv{dims}d", dims, False, x.reshape(shape), w.reshape(-1, 1, *(1,) * dims),
        op.arrays.get("bias"), 1, 0, 0, 1, planes[1], None, None, None, None, allocate=False,
    )  # fmt: skip
    return (problem, x, w), lambda y: _door_view(problem, y.reshape(shape))


def _judged_gate(op: Op, xs: list[np.ndarray], w: np.ndarray, y: np.ndarray) -> tuple:
    """The same, with every image's channels one after the other."""
    return _judged_scale(op, [xs[0], *xs[2:]], w.reshape(op.takes(1)), y)


def _door_view(problem: Any, y: np.ndarray) -> np.ndarray:
    return _arguments.door_view(y, problem.dims, problem.batched, problem.channels_last)


_JUDGES = {
    "conv": _judged_conv,
    "linear": _judged_linear,
    "scale": _judged_scale,
    "gate": _judged_gate,
}


# --- everything else ----------------------------------------------------------------------------


def _pool(op: Op, xs: list[np.ndarray], y: np.ndarray, _: None) -> list[Piece]:
    judge, (*head, options) = op.settings["judge"], op.settings["options"]
    problem, x, *_ = judge(*head, xs[0], *options, allocate=False)
    return [_core.pool_step(problem, x, _door_view(problem, y))]


def _activation(op: Op, xs: list[np.ndarray], y: np.ndarray, _: None) -> list[Piece]:
    return _mapped(*op.settings["activation"], xs[0], y)


def _norm(op: Op, xs: list[np.ndarray], y: np.ndarray, _: None) -> list[Piece]:
    make = op.settings["make"]
    if xs[0].flags.c_contiguous:
        return [make(xs[0], y)]
    if not op.settings.get("in_place"):
        return _call(op, xs, y, None)
    return [Call(lambda x, y: np.copyto(y, x), xs[0], y), make(y, y)]


def _add(op: Op, xs: list[np.ndarray], y: np.ndarray, _: None) -> list[Piece]:
    first, second = xs if np.may_share_memory(xs[0], y) else xs[::-1]
    return _mapped(*op.settings.get("activation") or (None, ()), first, y, second)


def _mapped(
    name: str | None,
    parameters: tuple,
    x: np.ndarray,
    y: np.ndarray,
    residual: np.ndarray | None = None,
) -> list[Piece]:
    """y = act(x + residual)."""
    try:
        return [_core.map_step(name, parameters, x, y, residual)]
    except ValueError:  # rows that are not evenly spaced
        pass
    calls = []
    if residual is not None:
        calls.append(Call(lambda x, residual, y: np.add(x, residual, out=y), x, residual, y))
        x = y
    if name is not None:
        calls.append(Call(lambda x, y: _apply(name, parameters, x, y), x, y))
    return calls


def _apply(name: str, parameters: tuple, x: np.ndarray, y: np.ndarray) -> None:
    np.copyto(y, _numpy_ops.activate(name, parameters, x)[0])


def copied(x: np.ndarray, y: np.ndarray) -> list[Piece]:
    """y = x."""
    found = _even_copies(x, y, _MOST_PIECES) if x.dtype in _ENGINE else None
    return [Call(lambda x, y: np.copyto(y, x), x, y)] if found is None else found


def _even_copies(x: np.ndarray, y: np.ndarray, most: int) -> list[Piece] | None:
    """Copies by the engine, along a short axis one by one where need be; None for more than `most`."""
    try:
        return [_core.map_step(None, (), x, y)]
    except ValueError:
        axes = [axis for axis in range(x.ndim - 1) if x.shape[axis] > 1]
        axis = min(axes, key=x.shape.__getitem__, default=None)
        if axis is None or x.shape[axis] > most:
            return None
    found: list[Piece] = []
    for one, other in zip(np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0), strict=True):
        some = _even_copies(one, other, most - len(found))
        if some is None:
            return None
        found += some
    return found


def _reorder(op: Op, xs: list[np.ndarray], y: np.ndarray, _: None) -> list[Piece]:
    """A reshape that copies: the elements in their order."""
    (x,) = xs
    if x.strides[-1:] != (x.itemsize,):
        return _call(op, xs, y, None)
    return copied(x, y.reshape(x.shape))


def _shuffle(op: Op, xs: list[np.ndarray], y: np.ndarray, _: None) -> list[Piece]:
    groups = op.settings["groups"]
    each = y.shape[1] // groups
    parts = [(xs[0][:, i * each : (i + 1) * each], y[:, i::groups]) for i in range(groups)]
    return [piece for pair in parts for piece in copied(*pair)]


def _call(op: Op, xs: list[np.ndarray], y: np.ndarray | None, _: None) -> list[Piece]:
    function = op.function
    if y is None:
        return [Call(function, *xs, None)]
    if op.settings.get("writes"):
        return [Call(lambda *arrays: function(*arrays[:-1], out=arrays[-1]), *xs, y)]
    return [Call(lambda *arrays: np.copyto(arrays[-1], function(*arrays[:-1])), *xs, y)]


_RULES = {
    **dict.fromkeys(_JUDGES, _conv),
    **dict.fromkeys(("call", "batch_norm", "affine", "multiply"), _call),
    **{"pool": _pool, "activation": _activation, "norm": _norm, "add": _add, "shuffle": _shuffle},
    "reorder": _reorder,
    "copy": lambda op, xs, y, _: copied(xs[0], y),
}
