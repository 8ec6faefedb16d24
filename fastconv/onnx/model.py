"""What a model file says, as plain Python: nodes in order, constants as arrays, inputs and outputs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastconv._memory import Mapped
from fastconv.onnx import tensors
from fastconv.onnx.ops import OPERATORS
from fastconv.onnx.schema import SCHEMA
from fastconv.onnx.wire import Message, ModelError, read

OPSETS = range(6, 29)
# More than any network has; a damaged file may say anything.
MOST_NODES = 100_000
_OURS = ("", "ai.onnx")
# AttributeProto.AttributeType: the field that holds a value, and what becomes of it.
_ATTRIBUTES = {
    1: ("f", float),
    2: ("i", int),
    3: ("s", lambda value: str(value, "utf-8", "replace")),
    4: ("t", None),
    6: ("floats", np.ndarray.tolist),
    7: ("ints", np.ndarray.tolist),
    8: ("strings", lambda value: [str(each, "utf-8", "replace") for each in value]),
}


@dataclasses.dataclass(frozen=True)
class Value:
    """An input or output. A size is an int, a name that stands for any size, or None."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: names of what it takes ("" for what is left out) and of what it makes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A file's graph. `constants` are its weights by name; `metadata` what its maker wrote down."""

    opset: int
    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    metadata: dict[str, str]


def load(source: str | os.PathLike | bytes) -> Model:
    """The model of a path, which is mapped into memory, or of a file's bytes.

    Nobody may shorten a file while it is mapped, which is as long as the model lives: the system ends a
    process that reads what is gone. Whoever replaces it by a new one of the same name does no harm.

    OSError: the path cannot be read. ModelError: the file is no model, damaged, or more than is
    supported, such as an operator, all of which are named; what it says is looked at, and nothing run.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _model(memoryview(source).cast("B"), None)
    path = Path(source)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ModelError(f"{path} is empty")
        data = memoryview(Mapped.read_only(file.fileno()))
    return _model(data, path.parent)


def _model(data: memoryview, folder: Path | None) -> Model:
    message = read(SCHEMA, "Model", data)
    if message.graph is None:
        raise ModelError("this is not an ONNX model: it has no graph")
    graph = message.graph
    if message.functions:
        names = _listed(f"{each.domain or ''}.{each.name or ''}" for each in message.functions)
        raise ModelError(
            f"the model defines functions of its own, which are not supported: {names}"
        )
    unknown = {_qualified(each) for each in graph.node} - {*OPERATORS}
    if unknown:
        raise ModelError(f"the model has operators that are not supported: {_listed(unknown)}")
    opset = _opset(message)
    if graph.sparse_initializer:
        raise ModelError("the model has sparse weights, which are not supported")
    if len(graph.node) > MOST_NODES:
        raise ModelError(f"the model has {len(graph.node)} nodes, more than {MOST_NODES}")
    constants = {each.name or "": tensors.array(each, folder) for each in graph.initializer}
    nodes = tuple(_node(each, folder) for each in graph.node)
    inputs = tuple(_value(each) for each in graph.input if each.name not in constants)
    outputs = tuple(_value(each) for each in graph.output)
    _check_order(nodes, [*constants, *(each.name for each in inputs)], outputs)
    metadata = {each.key or "": each.value or "" for each in message.metadata_props}
    return Model(opset, nodes, constants, inputs, outputs, metadata)


def _opset(message: Message) -> int:
    for each in message.opset_import:
        if (each.domain or "") in _OURS:
            if each.version not in OPSETS:
                first, last = OPSETS[0], OPSETS[-1]
                raise ModelError(
                    f"the model is of opset {each.version}; {first} to {last} are known"
                )
            return each.version
    raise ModelError("the model does not say which opset of ONNX it is of")


def _qualified(node: Message) -> str:
    """The name of a node's operator, with its domain if that is not ONNX's own."""
    op, domain = node.op_type or "", node.domain or ""
    return op if domain in _OURS else f"{domain}.{op}"


def _listed(names: Iterable[str]) -> str:
    """In alphabetical order; whoever made the file may have made them long and many."""
    names = sorted({name[:80] for name in names})
    return ", ".join(names[:40]) + (" and others" if len(names) > 40 else "")


def _node(message: Message, folder: Path | None) -> Node:
    op, name = message.op_type or "", message.name or ""
    attributes = {each.name: _attribute(each, f"{op} {name}", folder) for each in message.attribute}
    return Node(op, name, tuple(message.input), tuple(message.output), attributes)


def _attribute(message: Message, where: str, folder: Path | None) -> Any:
    """Old files leave the type out: then it is that of the field that is there."""
    kind = message.type or next(
        (k for k, (field, _) in _ATTRIBUTES.items() if _is_there(getattr(message, field))), 0
    )
    if kind not in _ATTRIBUTES:
        raise ModelError(
            f"{where}: attribute {message.name!r} is of kind {kind}, a graph or another"
        )
    field, convert = _ATTRIBUTES[kind]
    value = getattr(message, field)
    if convert is None:
        if value is None:
            raise ModelError(f"{where}: attribute {message.name!r} has no tensor")
        return tensors.array(value, folder)
    # A number that is zero, or a text that is empty, may be left out.
    return convert({"f": 0.0, "i": 0, "s": b""}[field] if value is None else value)


def _is_there(value: Any) -> bool:
    return value is not None and (not isinstance(value, (list, np.ndarray)) or len(value) > 0)


def _value(message: Message) -> Value:
    tensor = message.type.tensor_type if message.type else None
    if tensor is None:
        raise ModelError(f"{message.name!r} is not a tensor")
    if tensor.elem_type not in tensors.TYPES and tensor.elem_type != tensors.STRING:
        raise ModelError(f"{message.name!r} has elements of type {tensor.elem_type}")
    dtype = tensors.TYPES.get(tensor.elem_type, np.dtype(object))
    shape = None
    if tensor.shape is not None:
        shape = tuple(
            each.dim_param if each.dim_value is None else each.dim_value
            for each in tensor.shape.dim
        )
    return Value(message.name or "", dtype, shape)


def _check_order(nodes: tuple[Node, ...], given: list[str], outputs: tuple[Value, ...]) -> None:
    """Every value is made once, before it is used: so the nodes can run in their order, and end."""
    if "" in given or "" in {value.name for value in outputs}:
        raise ModelError("an input or output of the model has no name")
    known = set(given)
    if len(known) != len(given):
        raise ModelError("two of the model's inputs have the same name")
    for node in nodes:
        for name in node.inputs:
            if name and name not in known:
                raise ModelError(
                    f"{node.op} {node.name!r} takes {name!r}, which nothing before it makes"
                )
        for name in node.outputs:
            if name and name in known:
                raise ModelError(f"{name!r} is made twice")
            known.add(name)
    for value in outputs:
        if value.name not in known:
            raise ModelError(f"the output {value.name!r} is made by nothing")
