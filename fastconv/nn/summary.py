"""A table of what a network is made of: `model.summary((1, 3, 224, 224))`."""

from __future__ import annotations

import math
from typing import NamedTuple

from fastconv.nn.graph import Node, record
from fastconv.nn.module import Module
from fastconv.nn.receptive import ReceptiveField, fields_of, shapes_to_try


class Row(NamedTuple):
    """One step of a network. `receptive_field` is None where it is not known."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField | None


class Summary:
    """The rows of a network's layers and functions in the order they run, and their sums.

    parameters: of the whole model, each counted once. multiply_adds: of all convolutions and linear
    layers; a bias, a normalisation, an activation or a pooling counts nothing.
    """

    def __init__(self, model: Module, input_shape: tuple[int, ...]) -> None:
        (self.input_shape,) = shapes_to_try(model, input_shape)
        graph = record(model, self.input_shape)
        fields, met = fields_of(graph), set()
        self.network = type(model).__name__
        self.rows = []
        for node in graph.nodes:
            if node.kind not in ("input", "item", "identity"):
                parameters = 0 if node.layer in met else _parameters(node)
                met.add(node.layer)
                shape = node.shape or ()
                row = (
                    node.name,
                    _label(node),
                    shape,
                    parameters,
                    multiply_adds(node),
                    fields[node],
                )
                self.rows.append(Row(*row))
        self.parameters = sum(array.size for array in model.parameters())
        self.multiply_adds = sum(row.multiply_adds for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "", "output shape", "parameters", "multiply-adds", "receptive field")
        lines = [head]
        for row in self.rows:
            shape = "×".join(map(str, row.output_shape))
            counts = (_spaced(row.parameters), _spaced(row.multiply_adds))
            lines.append((row.name, row.kind, shape, *counts, _size(row.receptive_field)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = (0, 1, 2)
        text = [
            "  ".join(
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "─" * max(map(len, text))
        sums = f"{_spaced(self.parameters)} parameters, {_spaced(self.multiply_adds)} multiply-adds"
        shape = "×".join(map(str, self.input_shape))
        title = f"{self.network} on {shape}"
        return "\n".join([title, rule, text[0], rule, *text[1:], rule, sums])

    def __repr__(self) -> str:
        giga = self.multiply_adds / 1e9
        return (
            f"<{self.network}: {_spaced(self.parameters)} parameters, {giga:.3g} G multiply-adds>"
        )


def multiply_adds(node: Node) -> int:
    """Of a convolution or a linear layer: outputs times the length of the sum behind each."""
    weight = node.setting("weight")
    if weight is None:
        return 0
    outputs = math.prod(node.shape)
    if node.kind.startswith("conv_transpose"):
        return math.prod(node.inputs[0].shape) * math.prod(weight.shape[1:])
    if node.kind.startswith("conv") or node.kind == "linear":
        return outputs * math.prod(weight.shape[1:])
    return 0


def _parameters(node: Node) -> int:
    return 0 if node.layer is None else sum(array.size for array in node.layer.parameters())


def _label(node: Node) -> str:
    return node.kind if node.layer is None else type(node.layer).__name__


def _size(field: ReceptiveField | None) -> str:
    if field is None:
        return "?"
    if field.whole:
        return "all"
    sizes = field.size if isinstance(field.size, tuple) else (field.size,)
    return "×".join("all" if size == math.inf else str(size) for size in sizes)


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ") if number else "-"
