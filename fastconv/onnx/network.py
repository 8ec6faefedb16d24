"""A model's nodes as a module of fastconv.nn, so that it is recorded, prepared and summed up like one."""

from __future__ import annotations

from typing import Any

from fastconv import nn
from fastconv.onnx.model import Model, Node
from fastconv.onnx.ops import OPERATORS, Context
from fastconv.onnx.wire import ModelError

# What an operator may raise on inputs that do not fit together.
_MISFITS = (TypeError, ValueError, IndexError, AttributeError, KeyError, ZeroDivisionError)


class Step(nn.Module):
    """One node: `forward(*inputs)` gives its outputs, always as a tuple."""

    def __init__(self, node: Node, opset: int) -> None:
        super().__init__()
        self.context = Context(node, opset)

    def forward(self, *inputs: Any) -> tuple:
        """Inputs that are left out are None. ModelError: they do not fit the operator."""
        node = self.context.node
        try:
            result = OPERATORS[node.op](self.context, *inputs)
        except ModelError:
            raise
        except _MISFITS as error:
            raise ModelError(f"{node.op} {node.name!r}: {error}") from error
        return result if isinstance(result, tuple) else (result,)


class Network(nn.Module):
    """The nodes in their order; `forward` takes and gives arrays in the order of the model's lists.

    ModelError: the model has operators that are not supported, all of which are named.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        unknown = sorted({node.op for node in model.nodes} - {*OPERATORS})
        if unknown:
            raise ModelError(
                f"the model has operators that are not supported: {', '.join(unknown)}"
            )
        self.model = model
        self.steps = nn.ModuleList(Step(node, model.opset) for node in model.nodes)
        self._last_uses = _last_uses(model)

    def forward(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs for the inputs."""
        names = [value.name for value in self.model.inputs]
        values: dict[str, Any] = {**self.model.constants, **dict(zip(names, arrays, strict=True))}
        for i, step in enumerate(self.steps):
            node = self.model.nodes[i]
            results = step(*(values[name] if name else None for name in node.inputs))
            values |= {name: y for name, y in zip(node.outputs, results, strict=False) if name}
            for name in self._last_uses.get(i, ()):
                values.pop(name, None)
        return tuple(values[value.name] for value in self.model.outputs)


def _last_uses(model: Model) -> dict[int, list[str]]:
    """After which node which values are not needed any more."""
    kept, last = {value.name for value in model.outputs}, {}
    for i, node in enumerate(model.nodes):
        last |= {name: i for name in (*node.inputs, *node.outputs) if name and name not in kept}
    uses: dict[int, list[str]] = {}
    for name, i in last.items():
        uses.setdefault(i, []).append(name)
    return uses
