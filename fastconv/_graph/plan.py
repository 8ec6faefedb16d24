"""The steps of a network for inputs of given shapes, and the memory they work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastconv import _core, _memory
from fastconv._graph.arena import ALIGN, Block, arrange, largest_live_set
from fastconv._graph.op import Op, Ops
from fastconv._graph.place import Layout, Place
from fastconv._graph.steps import Call, Piece, copied, pieces_of
from fastconv._graph.weights import Weights


class Step(NamedTuple):
    """An op that takes time, and what carries it out: pieces until the programs are made, which hold what they
    need of them but no array of a room; how: in a word, for summaries.
    """

    op: Op
    pieces: list[Piece]
    how: str


class Plan:
    """What runs for inputs of given shapes, under the settings in force when it was made.

    rooms: the arena, the inputs, the outputs; only the first of them is ours. free: arenas that no call
    works on. nbytes: of an arena; live: of the results that are needed in it at the same time, at most.
    """

    def __init__(self, ops: Ops, weights: Callable[[Op], Weights]) -> None:
        self.ops = ops
        layout = self._layout = Layout(ops)
        self.inputs = [(op.shape, op.dtype) for op in ops.inputs]
        self.outputs = [(root.shape, root.dtype) for root in map(layout.roots.get, ops.outputs)]
        outer = [*ops.inputs, *map(layout.roots.get, ops.outputs)]
        self._results = [layout.place_of(op)._replace(root=None) for op in ops.outputs]
        blocks = self._blocks(outer)
        offsets, self.nbytes = arrange([*blocks.values()])
        self.live = largest_live_set([*blocks.values()])
        self._rooms = {root: (0, at) for root, at in zip(blocks, offsets, strict=True)}
        self._rooms.update((root, (i, 0)) for i, root in enumerate(outer, 1))
        rooms = [_arena(self.nbytes), *(np.empty(op.shape, op.dtype) for op in outer)]
        self.steps = [self._step(op, rooms, weights) for op in self._that_take_time()]
        self._parts = self._programs(rooms)
        self.steps = [step._replace(pieces=[]) for step in self.steps]  # which hold the rooms
        self.free = [rooms[0]]
        for op in ops.steps:
            op.arrays.pop("weight", None)
        del self._layout, self._rooms

    def _that_take_time(self) -> list[Op]:
        copies = self._layout.copies
        idle = ("input", "view")
        return [op for op in self.ops.steps if op.kind not in idle and copies.get(op, True)]

    def _touched(self, op: Op) -> list[Op]:
        """The ops whose blocks a step reads and writes."""
        sources = op.inputs
        if op.kind == "concat":
            sources = [source for source, _ in self._layout.copies[op]]
        roots = self._layout.roots
        return [roots[o] for o in (*sources, op) if o in roots]

    def _blocks(self, outer: list[Op]) -> dict[Op, Block]:
        """The blocks of the arena, by the ops that own them."""
        first, last = {}, {}
        for at, op in enumerate(self._that_take_time()):
            for root in self._touched(op):
                first.setdefault(root, at)
                last[root] = at
        size = self._layout.nbytes
        return {r: Block(size(r), first[r], last[r]) for r in first if r not in outer}

    def _on(self, place: Place, rooms: list[np.ndarray]) -> np.ndarray:
        room, start = self._rooms[place.root]
        return place.on(rooms[room], start)

    def _step(self, op: Op, rooms: list[np.ndarray], weights: Callable[[Op], Weights]) -> Step:
        def array(op: Op) -> np.ndarray | None:
            return None if op.shape is None else self._on(self._layout.place_of(op), rooms)

        if op.kind == "concat":
            pairs = self._layout.copies[op]
            copies = [copied(array(x), self._on(y, rooms)) for x, y in pairs]
            return _step(op, [piece for pieces in copies for piece in pieces])
        if op.kind == "item":
            source, position = op.inputs[0], op.settings["position"]
            return _step(op, [Taken(source, position, array(op))])
        own = weights(op) if "weight" in op.arrays and op.kind != "batch_norm" else None
        return _step(op, pieces_of(op, [array(x) for x in op.inputs], array(op), own))

    def _programs(self, rooms: list[np.ndarray]) -> list[Any]:
        """Programs of steps that follow one another, and calls of Python."""
        parts, run = [], []
        for step in self.steps:
            for piece in step.pieces:
                if isinstance(piece, _core.Step):
                    run.append(piece)
                    continue
                if run:
                    parts.append(_core.Program(run, tuple(rooms)))
                run = []
                parts.append(Bound(step.op, piece, rooms))
        if run:
            parts.append(_core.Program(run, tuple(rooms)))
        return parts

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The results for contiguous inputs of the shapes and types that were planned for."""
        outputs = [_memory.empty(shape, dtype) for shape, dtype in self.outputs]
        try:
            arena = self.free.pop()
        except IndexError:
            arena = _arena(self.nbytes)
        rooms, loose = (arena, *arrays, *outputs), {}
        for part in self._parts:
            if type(part) is _core.Program:
                part.run(rooms)
            else:
                part.run(rooms, loose)
        if len(self.free) < _core.in_force()[2]:
            self.free.append(arena)
        return [place.on(out) for place, out in zip(self._results, outputs, strict=True)]


def _step(op: Op, pieces: list[Piece]) -> Step:
    if not pieces or not isinstance(pieces[0], _core.Step):
        return Step(op, pieces, "NumPy")
    return Step(op, pieces, pieces[0].plan.figures().get("algorithm", "engine"))


class Taken(Call):
    """One of several results of a call."""

    def __init__(self, source: Op, position: int, y: np.ndarray) -> None:
        super().__init__(None, y)
        self.source, self.position = source, position


class Bound:
    """A call with the places of its arrays in the rooms."""

    def __init__(self, op: Op, call: Call, rooms: list[np.ndarray]) -> None:
        self.op, self.call = op, call
        self.places = [array if array is None else _found(array, rooms) for array in call.arrays]
        call.arrays = ()

    def run(self, rooms: tuple[np.ndarray, ...], loose: dict[Op, Any]) -> None:
        *xs, y = [place and place[1].on(rooms[place[0]]) for place in self.places]
        if type(self.call) is Taken:
            np.copyto(y, loose[self.call.source][self.call.position])
        elif y is None:
            loose[self.op] = self.call.function(*xs)
        else:
            self.call.function(*xs, y)


def _found(array: np.ndarray, rooms: list[np.ndarray]) -> tuple[int, Place]:
    """The room an array lies in, and its place there."""
    at = array.__array_interface__["data"][0]
    for number, room in enumerate(rooms):
        offset = at - room.__array_interface__["data"][0]
        if 0 <= offset < max(room.nbytes, 1):
            return number, Place(None, offset, array.shape, array.strides, array.dtype)
    raise SystemError("an array of a step lies in no room")


def _arena(nbytes: int) -> np.ndarray:
    room = _memory.packed(nbytes + ALIGN)
    start = -room.__array_interface__["data"][0] % ALIGN
    return room[start : start + nbytes]
