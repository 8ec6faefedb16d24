"""A model's nodes as a module of fastconv.nn, so that it is recorded, prepared and summed up like one."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from fastconv import nn
from fastconv.onnx.budget import Budget, default_memory, default_work
from fastconv.onnx.model import Model, Node
from fastconv.onnx.ops import OPERATORS, Context
from fastconv.onnx.wire import DependsOnValues, ModelError

# What an operator may raise on inputs that do not fit together.
_MISFITS = (TypeError, ValueError, IndexError, AttributeError, KeyError, ArithmeticError)


class Step(nn.Module):
    """One node: `forward(budget, *inputs)` gives its outputs by name."""

    def __init__(self, node: Node, opset: int) -> None:
        super().__init__()
        self.node, self.opset = node, opset

    def forward(self, budget: Budget, *inputs: Any) -> dict[str, Any]:
        """Inputs that are left out are None. ModelError: they do not fit the operator, or the budget."""
        node = self.node
        try:
            result = OPERATORS[node.op](Context(node, self.opset, budget), *inputs)
            results = result if isinstance(result, tuple) else (result,)
            named = {name: y for name, y in zip(node.outputs, results, strict=False) if name}
            for name, y in named.items():
                budget.hold(name, y)
        except DependsOnValues:
            raise
        except _MISFITS as error:
            raise ModelError(f"{node.op} {node.name!r}: {error}") from error
        return named


class Network(nn.Module):
    """The nodes in their order; `forward` takes and gives arrays in the order of the model's lists.

    memory: bytes that the values of a run may take together; work: the multiply-adds, or what takes as
    long, that a run may do. None: see budget.py.
    """

    def __init__(self, model: Model, memory: int | None = None, work: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.steps = nn.ModuleList(Step(node, model.opset) for node in model.nodes)
        self._last_uses = _last_uses(model)
        self._memory, self._work = memory, work
        self._weights = sum(array.size for array in model.constants.values())

    def forward(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs for the inputs."""
        names = [value.name for value in self.model.inputs]
        values: dict[str, Any] = {**self.model.constants, **dict(zip(names, arrays, strict=True))}
        budget = self._budget(arrays)
        for i, (node, step) in enumerate(zip(self.model.nodes, self.steps, strict=True)):
            values |= step(budget, *(_taken(values, name) for name in node.inputs))
            for name in self._last_uses.get(i, ()):
                values.pop(name, None)
                budget.drop(name)
        return tuple(_taken(values, value.name) for value in self.model.outputs)

    def _budget(self, arrays: Iterable[Any]) -> Budget:
        fed = sum(prod(array.shape) for array in arrays)
        memory = default_memory() if self._memory is None else self._memory
        work = default_work(self._weights, fed) if self._work is None else self._work
        return Budget(memory, work)


def _taken(values: dict[str, Any], name: str) -> Any:
    """The value of a name, None for what is left out. Nodes may name more outputs than there are."""
    if name and name not in values:
        raise ModelError(f"{name!r} is an output that its operator does not have")
    return values[name] if name else None


def _last_uses(model: Model) -> dict[int, list[str]]:
    """After which node which values are not needed any more."""
    kept, last = {value.name for value in model.outputs}, {}
    for i, node in enumerate(model.nodes):
        last |= {name: i for name in (*node.inputs, *node.outputs) if name and name not in kept}
    uses: dict[int, list[str]] = {}
    for name, i in last.items():
        uses.setdefault(i, []).append(name)
    return uses
