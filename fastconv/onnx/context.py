"""What all operators of ONNX share: the node they are called for, and the table they are put in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.nn.graph import Traced
from fastconv.onnx.budget import Budget
from fastconv.onnx.wire import DependsOnValues, ModelError

if TYPE_CHECKING:
    from fastconv.onnx.model import Node


class Context:
    """A node on its way: its attributes, with their defaults where they are asked for."""

    def __init__(self, node: Node, opset: int, budget: Budget) -> None:
        self.node, self.opset, self.attributes = node, opset, node.attributes
        self._budget = budget

    def __call__(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def constant(self, value: Any, what: str) -> np.ndarray:
        """The values of an input that decides about shapes. DependsOnValues: it is being recorded."""
        if isinstance(value, Traced):
            raise DependsOnValues(what)
        return np.asarray(value)

    def ints(self, value: Any, name: str) -> list[int] | None:
        """Integers that were an attribute in older opsets and are an input in newer ones."""
        if value is None:
            value = self(name)
        return None if value is None else [int(each) for each in self.constant(value, name).ravel()]

    def room(self, shape: Iterable[int], kind: np.dtype, taps: int = 1) -> None:
        """Called before an array is made whose size the model decides, each element from `taps` others.

        ModelError: it is more than the model may have.
        """
        self._budget.ask(shape, kind, taps)

    def room_to_spread(self, *arrays: Any) -> None:
        """`room` for what NumPy makes of these arrays, element by element."""
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        self.room(shape, np.result_type(*(array.dtype for array in arrays)))

    def error(self, text: str) -> ModelError:
        """For what this node asks and is not supported. Who calls the operator adds its name."""
        return ModelError(text)


Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}


def register(*names: str) -> Callable[[Operator], Operator]:
    """A decorator: the function is the operator of these names."""

    def put(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return put


def register_all(wrap: Callable[[Callable], Operator], functions: dict[str, Callable]) -> None:
    """A row of the table for each function, made an operator in the same way."""
    OPERATORS.update({op: wrap(function) for op, function in functions.items()})


def wide(function: Operator) -> Operator:
    """Half floats are computed as float32 and rounded once."""

    def operator(c: Context, x, *others):
        if x.dtype != np.float16:
            return function(c, x, *others)
        others = [None if each is None else each.astype(np.float32) for each in others]
        return function(c, x.astype(np.float32), *others).astype(np.float16)

    return operator


def along(values: Any, axis: int, ndim: int) -> Any:
    """One value an index of an axis, shaped so that it spreads over the others."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def least(kind: np.dtype) -> Any:
    """What the largest of nothing is."""
    if kind.kind == "b":
        return False
    return -np.inf if kind.kind == "f" else np.iinfo(kind).min
