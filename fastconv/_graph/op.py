"""One step of a network as data, and what the passes ask about a list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np

MOST_AXES = 5  # of an image: batch, channels, depth, height, width


class Op:
    """A step: `kind`, the ops whose results it takes, and all it needs to be run.

    kind and its settings (`op`, the public function's name, stands in messages and summaries):
        "input"       nothing
        "conv"        op, dims, transposed, options: (stride, padding, output_padding, dilation, groups)
                      of `_arguments.convolution`; arrays weight, bias; see also "fused"
        "linear"      arrays weight, bias
        "batch_norm"  eps; arrays mean, var, weight, bias, of which the last two may be None
        "scale"       x * weight + bias a channel of axis 1; arrays weight, bias
        "pool"        judge and options: a function of `_arguments` and its arguments after the input
        "activation"  activation: (name, parameters)
        "add"         the sum of two arrays of one shape
        "affine"      x * factor + term, float64 arrays of one number, or of one an index of an axis; function
        "multiply"    the product of two arrays; function
        "gate"        x * weight, the result of the second input, of one number a channel
        "norm"        make(x, y): a step of the engine on contiguous arrays; function, or in_place: y may be x
        "concat"      axis; step: 1, or the number of inputs, which then alternate along the axis
        "shuffle"     groups: channels g * (C / groups) + i go to i * groups + g
        "view"        function(array): a reshape, a slice, a transpose; in_order: a reshape, which keeps the order
                      of the elements
        "call"        function(*arrays) or, where `writes`, function(*arrays, out=array)
        "item"        position: one of several results of the call that is its input
    fused: "conv", "linear", "scale" and "add" may have an activation (name, parameters), and the two
        first `residual`: the result of their second input is added "first" or "last", before or after it.
    prologue: "conv" may begin with a "scale" (arrays scale, shift) and then an activation; gated: the scale is the
        result of its second input.
    key: of an op with arrays, what they are known by when the network is planned again.
    """

    __slots__ = ("arrays", "dtype", "function", "inputs", "kind", "name", "settings", "shape")

    def __init__(
        self,
        kind: str,
        name: str,
        inputs: Iterable[Op],
        shape: tuple[int, ...] | None,
        dtype: np.dtype,
        function: Callable | None = None,
        arrays: dict[str, np.ndarray | None] | None = None,
        **settings: Any,
    ) -> None:
        self.kind, self.name, self.inputs = kind, name, list(inputs)
        self.shape, self.dtype, self.function = shape, dtype, function
        self.arrays, self.settings = arrays or {}, settings

    def takes(self, i: int) -> tuple[int, ...]:
        """The shape in which the engine takes the i-th input."""
        shape = self.inputs[i].shape
        if i == 1 and (self.kind == "gate" or self.settings.get("gated")):
            return (prod(shape),)
        return self.lies(shape)

    def lies(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which the engine sees images of this shape: rows of a linear layer, planes of all images."""
        if self.kind == "linear":
            return prod(shape[:-1]), shape[-1]
        if self.kind not in ("gate", "scale"):
            return shape
        planes = shape[:2] if self.kind == "scale" else (1, shape[0] * shape[1])
        return *planes, *(shape[2:] if len(shape) <= MOST_AXES else (prod(shape[2:]),))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r} {self.shape}>"


class Ops:
    """The steps of a network in an order that runs; inputs and outputs are among them.

    structure: whatever who made them needs to return the outputs as the network would.
    """

    def __init__(
        self, steps: list[Op], inputs: list[Op], outputs: list[Op], structure: Any = None
    ) -> None:
        self.steps, self.inputs, self.outputs = steps, inputs, outputs
        self.structure = structure
        self.drop_unused()

    def users(self) -> dict[Op, list[Op]]:
        """The ops that take each result, once for every time they take it."""
        users = {op: [] for op in self.steps}
        for op in self.steps:
            for source in op.inputs:
                users[source].append(op)
        return users

    def replace(self, changes: dict[Op, Op]) -> None:
        """Whoever takes an op that `changes` has takes what stands there instead."""

        def current(op: Op) -> Op:
            while op in changes:
                op = changes[op]
            return op

        for op in self.steps:
            op.inputs = [current(source) for source in op.inputs]
        self.outputs = [current(op) for op in self.outputs]
        self.drop_unused()

    def drop_unused(self) -> None:
        """Leaves out what no output needs."""
        needed, stack = set(self.inputs), list(self.outputs)
        while stack:
            op = stack.pop()
            if op not in needed or op in self.inputs:
                needed.add(op)
                stack += op.inputs
        self.steps = [op for op in self.steps if op in needed]

    def alone(self) -> Callable[[Op, Op], bool]:
        """Whether `user` is the only one that sees the result of `op`."""
        users, outputs = self.users(), set(self.outputs)
        return lambda op, user: users[op] == [user] and op not in outputs
