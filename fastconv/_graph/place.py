"""Where each result lies: in a block of its own, or in a part of another's.

The inputs of a stack (concat) are computed where the stack has them, an activation or a sum
overwrites an input that nobody else reads, and reshapes and slices are views. Where that cannot be,
there is a copy. Blocks are drawn up as arrays that are never touched, all on the same memory: NumPy's
own slicing and reshaping then says where everything lies.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from fastconv._graph.op import Op, Ops

_OVERWRITES = ("activation", "add")


class Place(NamedTuple):
    """A view of the block that `root`, an op, owns; offset and strides in bytes."""

    root: Op | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def on(self, memory: np.ndarray, start: int = 0) -> np.ndarray:
        """The array at this place of a block that begins at byte `start` of `memory`."""
        return np.ndarray(self.shape, self.dtype, memory, start + self.offset, self.strides)


class Layout:
    """The place of every result, drawn up in `sketch`.

    roots: the op that owns the block a result lies in. copies: for each stack, (input, where to) of
    what could not be computed in it.
    """

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.sketch: dict[Op, np.ndarray] = {}
        self.roots: dict[Op, Op] = {}
        self.copies: dict[Op, list[tuple[Op, Place]]] = {}
        self._blocks: dict[Op, np.ndarray] = {}
        self._claims: dict[Op, tuple[Op, Callable[[np.ndarray], np.ndarray]]] = {}
        self._computed_in_place: set[tuple[Op, int]] = set()  # stacks, and which of their inputs
        sizes = [prod(op.shape) * op.dtype.itemsize for op in ops.steps if op.shape is not None]
        self._room = np.empty(max(sizes), np.uint8)
        users = ops.users()
        for op in reversed(ops.steps):
            if op.kind != "view" and op.shape is not None:
                self._settle(op)
                self._claim_inputs(op, users)
        for op in ops.steps:
            if op.kind == "view":
                self._view(op)
        self._straighten()
        self._draw_copies()
        self._give_away_outputs()

    def place(self, array: np.ndarray, root: Op) -> Place:
        """The place of a view of a sketch."""
        block = self._blocks[root]
        offset = _address(array) - _address(block) if array.size else 0
        return Place(root, offset, array.shape, array.strides, array.dtype)

    def place_of(self, op: Op) -> Place:
        """The place of an op's result."""
        return self.place(self.sketch[op], self.roots[op])

    def nbytes(self, root: Op) -> int:
        return self._blocks[root].nbytes

    def _settle(self, op: Op) -> None:
        if op in self._claims:
            owner, part = self._claims[op]
            self.sketch[op], self.roots[op] = part(self.sketch[owner]), self.roots[owner]
        else:
            self.sketch[op] = self._blocks[op] = np.ndarray(op.shape, op.dtype, self._room)
            self.roots[op] = op

    def _claim_inputs(self, op: Op, users: dict[Op, list[Op]]) -> None:
        if op.kind == "concat":
            for i, source in enumerate(op.inputs):
                if self._may_be_claimed(source):
                    self._claims[source] = op, parts(op)[i]
                    self._computed_in_place.add((op, i))
        elif op.kind in _OVERWRITES:
            for source in op.inputs:
                same = source.shape == op.shape and source.dtype == op.dtype
                last = (
                    users[source] == [op] and source.kind != "concat"
                )  # whose parts others may read
                if same and last and self._may_be_claimed(source):
                    self._claims[source] = op, lambda whole: whole
                    break

    def _may_be_claimed(self, op: Op) -> bool:
        fixed = op.kind in ("input", "view", "norm") or op.lies(op.shape) != op.shape
        return not fixed and op not in self._claims and op not in self.ops.outputs

    def _view(self, op: Op) -> None:
        (source,) = op.inputs
        seen = op.function(self.sketch[source])
        if np.may_share_memory(seen, self._blocks[self.roots[source]]):
            self.sketch[op], self.roots[op] = seen, self.roots[source]
        else:
            op.kind = "reorder" if op.settings.get("in_order") else "call"
            self._settle(op)

    def _straighten(self) -> None:
        """Copies of what an op cannot take where it lies: the shape it takes would be no view."""
        for op in list(self.ops.steps):
            for i, source in enumerate(op.inputs):
                lies = self.sketch.get(source)
                if lies is not None and lies.size and not _is_view(lies, op.takes(i)):
                    op.inputs[i] = copy = Op("copy", op.name, [source], source.shape, source.dtype)
                    self.ops.steps.insert(self.ops.steps.index(op), copy)
                    self._settle(copy)

    def _draw_copies(self) -> None:
        for op in self.ops.steps:
            if op.kind != "concat":
                continue
            self.copies[op] = [
                (source, self.place(part(self.sketch[op]), self.roots[op]))
                for i, (source, part) in enumerate(zip(op.inputs, parts(op), strict=True))
                if (op, i) not in self._computed_in_place
            ]

    def _give_away_outputs(self) -> None:
        """Every output owns a whole block, which becomes the caller's: copies, where it does not."""
        given = set(self.ops.inputs)
        for i, op in enumerate(self.ops.outputs):
            root = self.roots[op]
            whole = self.sketch[op].nbytes == self.nbytes(root)
            if root in given or not whole or not self.sketch[op].flags.c_contiguous:
                op = Op("copy", op.name, [op], op.shape, op.dtype)
                self.ops.steps.append(op)
                self.ops.outputs[i] = root = op
                self._settle(op)
            given.add(root)


def parts(op: Op) -> list[Callable[[np.ndarray], np.ndarray]]:
    """What takes each input's part out of a stack."""
    axis, step = op.settings["axis"], op.settings.get("step", 1)
    keys, at = [], 0
    for i, source in enumerate(op.inputs):
        end = at + source.shape[axis]
        keys.append((slice(None),) * axis + (slice(i, None, step) if step > 1 else slice(at, end),))
        at = end
    return [lambda whole, key=key: whole[key] for key in keys]


def _is_view(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    return np.may_share_memory(array.reshape(shape), array)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
