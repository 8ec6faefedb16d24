"""Prepared networks: what a model of layers does, as ops for `fastconv._graph`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np

from fastconv import _arguments, _core
from fastconv._graph import Memory, Network, Op, Ops, Summary
from fastconv._graph.summary import mega
from fastconv.nn.graph import Node, Recorder, _each
from fastconv.nn.module import Module

_VIEWS = {"reshape", "getitem", "transpose", "swapaxes", "squeeze", "expand_dims", "T", "flatten"}
_VIEWS |= {"ravel", "moveaxis"}
_FLOATS = (np.float32, np.float64)


class Prepared:
    """A network made ready to run, by `Module.prepare`: call it as the model.

    Arguments and results are those of the model's `forward` in `eval()` mode. The network is a snapshot:
    it keeps the weights, packed, and does not see what becomes of the model, which may be deleted.
    Any number of threads may call it at once, each call works on memory of its own, and what it
    returns belongs to the caller. The first call with other shapes, or other settings of
    `fastconv.using`, plans anew, which takes as long as a call of the model; the last 8 plans made are kept.

    The results are bit for bit the model's, but where batch normalisation, or a product, sum or quotient
    with constants, was folded into weights or recognised as part of an activation (`fold=False` leaves
    them): computed in float64 and rounded once, they are as near to the exact ones.

    Errors: TypeError for inputs that are no real floats, those of the model for shapes it does not take.
    """

    def __init__(self, model: Module, *shapes: tuple[int, ...], fold: bool = True) -> None:
        self.name = type(model).__name__
        self._source = Source(model)
        self._network = Network(self._source, fold=fold)
        self._shapes = shapes
        self._dtype = self._network.plan(*shapes).ops.inputs[0].dtype
        self._source.forget_weights()

    def __call__(self, *inputs: Any) -> Any:
        if len(inputs) != len(self._shapes):
            expected = f"{len(self._shapes)} input" + "s" * (len(self._shapes) != 1)
            raise TypeError(f"{self.name}: prepared for {expected}, got {len(inputs)}")
        arrays = [_input_array(self.name, x, self._dtype) for x in inputs]
        plan = self._network.plan(*(array.shape for array in arrays))
        return _restored(plan.ops.structure, iter(plan.run(arrays)))

    @property
    def memory(self) -> Memory:
        """What is held, in bytes."""
        return self._network.memory

    def summary(self, *input_shapes: tuple[int, ...]) -> Summary:
        """Prints and returns a table of the steps that run and of what became of the others."""
        summary = Summary(self.name, self._network, input_shapes or self._shapes)
        print(summary)
        return summary

    def __repr__(self) -> str:
        m = self.memory
        shapes = ", ".join("×".join(map(str, shape)) for shape in self._shapes)
        return f"<{self.name} prepared for {shapes}: weights {mega(m.weights)}, buffers {mega(m.buffers)}>"


def _input_array(name: str, x: Any, dtype: np.dtype) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind != "f" or x.dtype.itemsize not in (4, 8):
        remedy = f"; convert it: x.astype(np.{dtype})" if x.dtype.kind in "iubf" else ""
        raise TypeError(f"{name}: inputs must be float32 or float64, got {x.dtype}{remedy}")
    return np.asarray(x, dtype, order="C")  # ascontiguousarray gives a number an axis


def _restored(outputs: Any, results: Iterator[np.ndarray]) -> Any:
    """The results in the lists, tuples and dictionaries that `forward` returns."""
    return _each(lambda node: next(results), Node, outputs)


class Source:
    """A model as ops, for any shapes, also after its weights are gone.

    It is recorded in a twin that shares its arrays. Weights that are packed at the first plan are then
    replaced by zeros that take no memory, unless a `forward` looks at them itself. What is not among the
    model's modules, a layer in a list or an array that `forward` hands to a function, is the caller's: it
    is kept alive and never changed.
    """

    def __init__(self, model: Module) -> None:
        self._model = twin(model)
        self._own = set(self._model.modules())
        self._layers: dict[Module, bool] = {}
        self._others: dict[tuple, list[np.ndarray]] = {}

    def __call__(self, *shapes: tuple[int, ...]) -> Ops:
        recorder = Recorder(self._model)
        graph = recorder.run(*shapes)
        ops = {}
        for node in graph.nodes:
            if _does_nothing(node):
                ops[node] = ops[node.inputs[0]]
                continue
            op = ops[node] = _op(node, [ops[source] for source in node.inputs])
            if op.arrays:
                op.settings["key"] = self._key(node, op)
            if node.layer in self._own:
                packed = op.kind in ("conv", "linear") and node.layer not in recorder.read
                self._layers[node.layer] = packed and self._layers.get(node.layer, True)
        outputs: list[Node] = []
        _each(outputs.append, Node, graph.outputs)
        steps, inputs = list(dict.fromkeys(ops.values())), [ops[node] for node in graph.inputs]
        return Ops(steps, inputs, [ops[node] for node in outputs], graph.outputs)

    def _key(self, node: Node, op: Op) -> tuple:
        """What an op's weights are known by in all plans: a layer's name, or where the arrays lie, which
        no others do while these are kept.
        """
        if node.layer in self._own:
            return (node.name,)
        arrays = [np.asarray(a) for a in op.arrays.values() if a is not None]
        key = tuple((a.__array_interface__["data"][0], a.shape, a.strides, a.dtype) for a in arrays)
        self._others[key] = arrays
        return key

    def forget_weights(self) -> None:
        for layer, packed in self._layers.items():
            if packed:
                weight = layer._parameters["weight"]
                zeros = np.broadcast_to(weight.dtype.type(0), weight.shape)
                layer._parameters["weight"] = zeros
                layer._prepared = (zeros, None)


def twin(module: Module, known: dict[Module, Module] | None = None) -> Module:
    """A copy of the tree of modules in `eval()` mode that shares all arrays and packs none."""
    known = {} if known is None else known
    if module not in known:
        copy = known[module] = object.__new__(type(module))
        copy.__dict__.update(module.__dict__)
        for registry in ("_parameters", "_buffers"):
            copy.__dict__[registry] = dict(getattr(module, registry))
        copy.__dict__["_modules"] = {
            name: child and twin(child, known) for name, child in module._modules.items()
        }
        copy.__dict__["_prepared"] = (module._parameters.get("weight"), None)
        copy.__dict__["training"] = False
    return known[module]


def _does_nothing(node: Node) -> bool:
    """Whether it gives what it takes: an identity, or dropout other than a function in training."""
    alone = len(node.inputs) == 1
    dropout = node.kind == "dropout" and (node.layer is not None or not node.setting("training"))
    return alone and (node.kind == "identity" or dropout)


def _op(node: Node, inputs: list[Op]) -> Op:
    if node.kind == "item":
        inputs[0].shape = None  # a step with several results
        position = node.args[1]
        return Op("item", node.name, inputs, node.shape, node.dtype, position=position)
    for rule in _RULES:
        found = rule(node)
        if found is not None:
            kind, fields = found
            return Op(kind, node.name, inputs, node.shape, node.dtype, op=node.kind, **fields)
    return Op("call", node.name, inputs, node.shape, node.dtype, _function(node), op=node.kind)


def _function(node: Node) -> Callable:
    """The step as a function of its inputs alone."""
    inputs = node.inputs
    return lambda *arrays: node.run(dict(zip(inputs, arrays, strict=True)))


def _input(node: Node) -> tuple | None:
    return ("input", {}) if node.kind == "input" else None


def _plain(node: Node) -> bool:
    """Whether the step takes one array of the engine's types and gives one, neither of them empty."""
    # the first argument: not a weight that is computed
    alone = len(node.inputs) == 1 and len(node.args) > 0 and node.args[0] is node.inputs[0]
    alone = alone and node.shape is not None and node.dtype in _FLOATS
    return alone and prod(node.shape) > 0 and prod(node.inputs[0].shape) > 0


def _conv(node: Node) -> tuple | None:
    if not node.kind.startswith("conv") or not _plain(node) or node.setting("layout") == "NHWC":
        return None
    if node.setting("padding_mode", "zeros") != "zeros":
        return None
    weight = np.asarray(node.setting("weight"))
    if weight.dtype != node.dtype or node.kwargs:
        return None
    options = [
        node.setting(name, 0)
        for name in ("stride", "padding", "output_padding", "dilation", "groups")
    ]
    arrays = {"weight": weight, "bias": node.setting("bias")}
    transposed = node.kind.startswith("conv_transpose")
    dims = int(node.kind[-2])
    return "conv", dict(arrays=arrays, dims=dims, transposed=transposed, options=options)


def _linear(node: Node) -> tuple | None:
    if node.kind != "linear" or not _plain(node):
        return None
    return "linear", dict(arrays={"weight": node.setting("weight"), "bias": node.setting("bias")})


def _batch_norm(node: Node) -> tuple | None:
    if node.kind != "batch_norm" or not _plain(node):
        return None
    names = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (node.setting(name) for name in names)
    if mean is None or node.setting("training") is True and node.layer is None:
        return None
    arrays = dict(mean=mean, var=var, weight=weight, bias=bias)
    fields = dict(arrays=arrays, eps=node.setting("eps"), function=_function(node))
    return "batch_norm", fields


def _activation(node: Node) -> tuple | None:
    name = node.kind
    if name == "erf" and _plain(node):
        return "activation", dict(activation=(name, ()))
    if name == "gelu" and node.setting("approximate") == "tanh":
        name = "gelu_tanh"
    if name not in _arguments.ACTIVATIONS or not _plain(node):
        return None
    parameters = tuple(float(node.setting(p)) for p in _arguments.ACTIVATIONS[name])
    return "activation", dict(activation=(name, parameters))


def _bounds(node: Node) -> tuple | None:
    """numpy.clip with two numbers."""
    bounds = node.args[1:]
    if node.kind != "clip" or len(bounds) != 2 or node.kwargs or not _plain(node):
        return None
    if node.args[0] not in node.inputs or any(np.ndim(each) for each in bounds):
        return None
    low, high = (
        end if each is None else float(each)
        for each, end in zip(bounds, (-np.inf, np.inf), strict=True)
    )
    return ("activation", dict(activation=("clip", (low, high)))) if low <= high else None


def _norm(node: Node) -> tuple | None:
    """Softmax of rows, local response normalisation with the usual exponent, layer normalisation."""
    if not _plain(node) or not node.shape:
        return None
    if node.kind == "layer_norm":
        return _layer_norm(node)
    if node.kind == "local_response":
        make = partial(_core.local_response_step, *node.args[1:])
    elif node.kind == "softmax" and node.setting("dim") in (-1, len(node.shape) - 1):
        make = _core.softmax_step
    else:
        return None
    return "norm", dict(make=make, function=_function(node))


def _layer_norm(node: Node) -> tuple | None:
    shape, eps = node.setting("normalized_shape"), node.setting("eps")
    weights = node.setting("weight"), node.setting("bias")
    if any(each is not None and each.dtype != node.dtype for each in weights):
        return None
    scale, shift = (
        np.full(shape, usual, node.dtype) if each is None else np.array(each, order="C")
        for each, usual in zip(weights, (1, 0), strict=True)
    )
    return "norm", dict(
        make=partial(_core.layer_norm_step, float(eps), scale, shift), in_place=True
    )


def _pool(node: Node) -> tuple | None:
    kind, dims = node.kind[:-2], node.kind[-2:-1]
    if not _plain(node) or node.setting("return_indices") or node.setting("layout") == "NHWC":
        return None
    if node.kind in ("global_avg_pool", "global_max_pool"):
        head = (node.kind, node.kind[7:10])
        return "pool", dict(judge=_arguments.global_pooling, options=(*head, ()))
    if kind in ("max_pool", "avg_pool"):
        s, what = node.setting, kind[:3]
        options = (
            s("kernel_size"), s("stride"), s("padding"), s("dilation", 1), s("ceil_mode"),
            s("count_include_pad", True), s("divisor_override"), False, None,
        )  # fmt: skip
        return "pool", dict(judge=_arguments.pooling, options=(node.kind, int(dims), what, options))
    if kind in ("adaptive_max_pool", "adaptive_avg_pool"):
        head = (node.kind, int(dims), kind[9:12])
        options = (node.setting("output_size"), False)
        return "pool", dict(judge=_arguments.adaptive_pooling, options=(*head, options))
    return None


def _sum(node: Node) -> tuple | None:
    same = [source.shape == node.shape and source.dtype == node.dtype for source in node.inputs]
    if node.kind != "add" or len(same) != 2 or not all(same) or node.kwargs:
        return None
    return "add", {}


_ARITHMETIC = {
    "add": lambda c: (np.ones(()), c),
    "subtract": lambda c: (np.ones(()), -c),
    "multiply": lambda c: (c, np.zeros(())),
    "divide": lambda c: (1 / c, np.zeros(())),
    "true_divide": lambda c: (1 / c, np.zeros(())),
}


def _affine(node: Node) -> tuple | None:
    """An array and a constant: a number, or one an index of an axis."""
    if node.kind not in _ARITHMETIC or len(node.args) != 2 or node.kwargs or len(node.inputs) != 1:
        return None
    if not node.shape or prod(node.shape) == 0 or node.dtype not in _FLOATS:
        return None
    (x,) = node.inputs
    x_first = node.args[0] is x
    constant = np.asarray(node.args[x_first])
    commutes = node.kind in ("add", "multiply")
    if x.shape != node.shape or x.dtype != node.dtype or not (x_first or commutes):
        return None
    axes = [axis - constant.ndim for axis, size in enumerate(constant.shape) if size > 1]
    if len(axes) > 1 or constant.dtype.kind not in "fiu":
        return None
    with np.errstate(all="ignore"):
        factor, term = _ARITHMETIC[node.kind](
            constant.astype(np.float64).reshape(-1 if axes else ())
        )
    if not (np.isfinite(factor).all() and np.isfinite(term).all()):
        return None
    axis = (axes or [1])[0] % len(node.shape)
    return "affine", dict(factor=factor, term=term, axis=axis, function=_function(node))


def _product(node: Node) -> tuple | None:
    floats = node.dtype in _FLOATS and node.shape is not None and prod(node.shape) > 0
    if node.kind != "multiply" or len(node.inputs) != 2 or node.kwargs or not floats:
        return None
    return "multiply", dict(function=_function(node))


def _concat(node: Node) -> tuple | None:
    if node.kind != "concatenate":
        return None
    axis = node.setting("axis", 0)
    same = [source.dtype == node.dtype for source in node.inputs]
    if axis is None or not all(same) or list(node.args[0]) != node.inputs:
        return None
    return "concat", dict(axis=axis % len(node.shape))


def _shuffle(node: Node) -> tuple | None:
    if node.kind != "channel_shuffle" or not _plain(node):
        return None
    return "shuffle", dict(groups=node.setting("groups"))


def _view(node: Node) -> tuple | None:
    if node.kind not in _VIEWS or len(node.inputs) != 1 or node.shape is None:
        return None
    usual = not node.kwargs and not any(type(each) is str for each in node.args)  # not Fortran's
    in_order = usual and node.kind in ("reshape", "ravel", "flatten")
    return "view", dict(function=_function(node), in_order=in_order)


_RULES = (
    _input, _conv, _linear, _batch_norm, _activation, _bounds, _norm, _pool, _sum, _affine, _product, _concat,
    _shuffle, _view,
)  # fmt: skip
