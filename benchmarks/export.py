"""A network of fastconv as an ONNX model, so that other libraries can run the very same one."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastconv import nn
from fastconv.nn.graph import Node, record

# Old enough for every peer's reader, new enough for all that is used here.
OPSET, IR_VERSION = 13, 8


def onnx_model(model: nn.Module, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """`model` in the state of `eval()`, for inputs of this shape: one input x, one output y.

    ValueError: a step that is not in STEPS below.
    """
    return _Model(model, shape, np.dtype(dtype)).serialised()


class _Model:
    """The model so far: a step of the network becomes one or more nodes, its weights constants."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], dtype: np.dtype) -> None:
        try:
            import onnx
        except ImportError:
            raise ValueError("cannot: the model needs the onnx package") from None
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        graph = record(model, shape)
        (self.input,) = graph.inputs
        self.output = graph.outputs
        self.names: dict[Node, str] = {self.input: "x"}
        for node in graph.nodes:
            if node is not self.input:
                self._step(node)

    def _step(self, node: Node) -> None:
        if node.kind not in STEPS:
            raise ValueError(f"cannot: {node.kind} has no place in an ONNX model yet")
        value = [self.names[each] for each in node.inputs]
        for op, constants, attributes in STEPS[node.kind](node):
            value += [self._constant(array) for array in constants if array is not None]
            name = f"v{len(self.nodes)}"
            self.nodes.append(self.onnx.helper.make_node(op, value, [name], **attributes))
            value = [name]
        (self.names[node],) = value

    def _constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def serialised(self) -> bytes:
        helper = self.onnx.helper
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes.append(helper.make_node("Identity", [self.names[self.output]], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", element, self.input.shape)],
            [helper.make_tensor_value_info("y", element, self.output.shape)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return model.SerializeToString()


# What stands for a step: (op, the constants among its inputs, attributes) of each node in a row.
Nodes = Iterator[tuple[str, list, dict]]


def _conv(node: Node) -> Nodes:
    axes = len(node.shape) - 2
    sizes = {
        "strides": _each(node, "stride", axes),
        "pads": _each(node, "padding", axes) * 2,
        "dilations": _each(node, "dilation", axes),
        "group": node.setting("groups"),
    }
    op = "Conv"
    if "transpose" in node.kind:
        op = "ConvTranspose"
        sizes["output_padding"] = _each(node, "output_padding", axes)
    yield op, [node.setting("weight"), node.setting("bias")], sizes


def _batch_norm(node: Node) -> Nodes:
    arrays = [node.setting(name) for name in ("weight", "bias", "running_mean", "running_var")]
    yield "BatchNormalization", arrays, {"epsilon": node.setting("eps")}


def _pool(node: Node) -> Nodes:
    axes = len(node.shape) - 2
    kernel = _each(node, "kernel_size", axes)
    strides = kernel if node.setting("stride") is None else _each(node, "stride", axes)
    sizes = {"kernel_shape": kernel, "strides": strides, "pads": _each(node, "padding", axes) * 2}
    sizes["ceil_mode"] = int(node.setting("ceil_mode"))
    if node.kind.startswith("max"):
        yield "MaxPool", [], sizes | {"dilations": _each(node, "dilation", axes)}
    else:
        yield (
            "AveragePool",
            [],
            sizes | {"count_include_pad": int(node.setting("count_include_pad"))},
        )


def _adaptive(node: Node) -> Nodes:
    """Windows that are all alike, as ONNX has no others."""
    (source,), wanted = node.inputs, node.shape[2:]
    if any(size % out for size, out in zip(source.shape[2:], wanted, strict=True)):
        raise ValueError("cannot: ONNX has no windows of several sizes")
    kernel = [size // out for size, out in zip(source.shape[2:], wanted, strict=True)]
    op = "AveragePool" if "avg" in node.kind else "MaxPool"
    if all(size == 1 for size in wanted):
        yield "Global" + op, [], {}
    else:
        yield op, [], {"kernel_shape": kernel, "strides": kernel}


def _linear(node: Node) -> Nodes:
    yield "Gemm", [node.setting("weight"), node.setting("bias")], {"transB": 1}


def _reshape(node: Node) -> Nodes:
    yield "Reshape", [np.array(node.shape, np.int64)], {}


def _channel_shuffle(node: Node) -> Nodes:
    n, c, *image = node.shape
    groups, axes = node.setting("groups"), range(3, 3 + len(image))
    yield "Reshape", [np.array([n, groups, c // groups, *image], np.int64)], {}
    yield "Transpose", [], {"perm": [0, 2, 1, *axes]}
    yield "Reshape", [np.array(node.shape, np.int64)], {}


def _getitem(node: Node) -> Nodes:
    _, key = node.args
    key = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, slice) for part in key):
        raise ValueError(f"cannot: only slices have a place in an ONNX model, not {key}")
    bounds = [part.indices(size) for part, size in zip(key, node.inputs[0].shape, strict=False)]
    starts, stops, steps = np.array(bounds, np.int64).T
    yield "Slice", [starts, stops, np.arange(len(bounds)), steps], {}


def _concatenate(node: Node) -> Nodes:
    axis = node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else 0)
    yield "Concat", [], {"axis": axis}


def _relu6(node: Node) -> Nodes:
    bounds = [np.array(bound, node.dtype) for bound in (0, 6)]
    yield "Clip", bounds, {}


def _nothing(node: Node) -> Nodes:
    yield "Identity", [], {}


def _plain(op: str) -> Callable[[Node], Nodes]:
    return lambda node: iter([(op, [], {})])


def _each(node: Node, setting: str, axes: int) -> list[int]:
    """A setting of every axis. ValueError: a padding in words, which no network here has."""
    value = node.setting(setting)
    if isinstance(value, str):
        raise ValueError(f"cannot: {setting}={value!r} is not written out as numbers")
    return (
        [int(each) for each in value] if isinstance(value, (tuple, list)) else [int(value)] * axes
    )


STEPS: dict[str, Callable[[Node], Nodes]] = {
    "conv2d": _conv,
    "conv_transpose2d": _conv,
    "batch_norm": _batch_norm,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive,
    "linear": _linear,
    "reshape": _reshape,
    "channel_shuffle": _channel_shuffle,
    "getitem": _getitem,
    "concatenate": _concatenate,
    "relu": _plain("Relu"),
    "relu6": _relu6,
    "sigmoid": _plain("Sigmoid"),
    "add": _plain("Add"),
    "multiply": _plain("Mul"),
    "dropout": _nothing,
    "identity": _nothing,
}
