"""A prepared network: its weights, and plans for the shapes that came."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

from fastconv import _core
from fastconv._graph.fold import fold
from fastconv._graph.fuse import fuse
from fastconv._graph.op import Op, Ops
from fastconv._graph.plan import Plan
from fastconv._graph.weights import Weights

#: Plans kept; the one that was made first is let go for a new one.
PLANS = 8


class Memory(NamedTuple):
    """Bytes of a prepared network.

    original_weights: of weights and biases as they came, after folding. weights: as they are held,
    packed. buffers: of all plans' arenas. largest_live_set: of the results in the arena of the largest
    plan that are needed at the same time, at most.
    """

    original_weights: int
    weights: int
    buffers: int
    largest_live_set: int


class Network:
    """Steps from `source(*shapes)`, folded, fused and planned for the shapes that come.

    The weights are those that `source` gave when they were first seen, packed; what it gives later
    may have no values, for they are taken from here.
    """

    def __init__(self, source: Callable[..., Ops], *, fold: bool = True) -> None:
        self._source, self._fold = source, fold
        self._weights: dict[tuple, Weights] = {}
        self._plans: dict[Any, Plan] = {}
        self._lock = Lock()

    def plan(self, *shapes: tuple[int, ...]) -> Plan:
        """The plan for inputs of these shapes under the settings in force, made if need be."""
        key = shapes, _core.options.get(), _core.in_force()
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._new_plan(shapes)
                if len(self._plans) == PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan
            return plan

    def _new_plan(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        ops = self._source(*shapes)
        if self._fold:
            fold(ops)
        fuse(ops)
        plan = Plan(ops, self._weights_of)
        for weights in self._weights.values():
            weights.drop()
        return plan

    def _weights_of(self, op: Op) -> Weights:
        key = op.settings["key"]
        if key not in self._weights:
            self._weights[key] = Weights(op.arrays["weight"])
        return self._weights[key]

    @property
    def memory(self) -> Memory:
        """What the network holds now."""
        weights, plans = self._weights.values(), self._plans.values()
        return Memory(
            original_weights=sum(w.original for w in weights) + self._small(),
            weights=sum(w.nbytes for w in weights) + self._small(),
            buffers=sum(plan.nbytes * max(len(plan.free), 1) for plan in plans),
            largest_live_set=max((plan.live for plan in plans), default=0),
        )

    def _small(self) -> int:
        """Bytes of biases and the like."""
        ops = (op for plan in self._plans.values() for op in plan.ops.steps)
        arrays = {id(a): a for op in ops for a in op.arrays.values() if a is not None}
        return sum(array.nbytes for array in arrays.values())
