"""What a network does to an array, written down as it does it: `record(model, shape).nodes`.

`forward` runs once on zeros, wrapped as `Traced`: it has the shape, the operators and the methods of
an array. Everything done to one becomes a `Node`: a call of a layer of `fastconv.nn`, of a function
of `fastconv`, of a NumPy function or operator. A node knows its layer, its arguments with nodes in
the place of arrays, and the shape and type of its result, which is all that a summary, a receptive
field, or a plan for running the network again needs.

While a recording runs, `Module.__call__` and the functions of `fastconv.functional` are exchanged
for ones that look for a `Traced` among their arguments and pass everything else through. So neither
layers nor functions pay for it at any other time, and other threads can go on.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastconv import functional
from fastconv.nn.module import Module, _Row

_one_at_a_time = threading.RLock()


class Node:
    """One step: `kind` with `args` and `kwargs`, in which nodes stand for arrays.

    kind: the name of a function: of fastconv.functional ("conv2d", also for a layer), of NumPy
        ("concatenate", "add") or of ndarray ("reshape", "getitem"); "input" for an input; "item" for
        one of several results; "identity"; "unknown" for a layer that hides what it does.
    layer: the layer, None for a function. name: the dotted name of the layer, or of the module
        whose `forward` called the function.
    inputs: the nodes among the arguments. shape, dtype: of the result, of the first if several.
    """

    __slots__ = ("args", "dtype", "function", "inputs", "kind", "kwargs", "layer", "name", "shape")

    def __init__(self, kind: str, name: str, result: Any, **fields: Any) -> None:
        self.kind, self.name = kind, name
        first = result[0] if type(result) in (list, tuple) and result else result
        self.shape, self.dtype = getattr(first, "shape", None), getattr(first, "dtype", None)
        self.layer = self.function = None
        self.args, self.kwargs = (), {}
        for field, value in fields.items():
            setattr(self, field, value)
        self.inputs = []
        _each(lambda node: self.inputs.append(node), Node, (self.args, self.kwargs))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r} {self.shape}>"

    def setting(self, name: str, default: Any = None) -> Any:
        """An option of the step, such as `stride`: an attribute of the layer, or an argument."""
        if self.layer is not None:
            return getattr(self.layer, name, default)
        try:
            given = inspect.signature(self.function).bind(*self.args, **self.kwargs)
        except (TypeError, ValueError):  # NumPy has functions without a signature
            return self.kwargs.get(name, default)
        given.apply_defaults()
        return given.arguments.get(name, default)

    def run(self, values: Mapping[Node, np.ndarray]) -> Any:
        """The step on other arrays: `values` of the nodes it takes."""
        args, kwargs = _each(values.__getitem__, Node, (self.args, self.kwargs))
        return (self.function if self.layer is None else self.layer)(*args, **kwargs)


class Graph:
    """The steps in the order they were done. `outputs` is what `forward` returned, as nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[Node] = []
        self.outputs: Any = None

    def run(self, *arrays: np.ndarray) -> Any:
        """What `forward` would return, by carrying out the steps."""
        values = dict(zip(self.inputs, arrays, strict=True))
        for node in self.nodes:
            if node not in values:
                values[node] = node.run(values)
        return _each(values.__getitem__, Node, self.outputs)


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on its way through a network that is being recorded."""

    def __init__(self, value: np.ndarray, node: Node, recorder: Recorder) -> None:
        self._value, self._node, self._recorder = value, node, recorder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        there = getattr(self._value, name)
        if isinstance(there, np.ndarray):
            return self._recorder.step(name, operator.attrgetter(name), (self,), {})
        if not callable(there):
            return there

        def method(*args: Any, **kwargs: Any) -> Any:
            function = getattr(np.ndarray, name)
            return self._recorder.step(name, function, (self, *args), kwargs)

        return method

    def __getitem__(self, key: Any) -> Any:
        return self._recorder.step("getitem", operator.getitem, (self, key), {})

    def __len__(self) -> int:
        return len(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __index__(self) -> int:
        return operator.index(self._value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """For whoever insists on an array: what comes of it is not recorded, and the module is one step."""
        self._recorder.left()
        return np.array(self._value, dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        (out,) = kwargs.pop("out", (None,))
        result = self._recorder.step(name, function, args, kwargs)
        return result if out is None else out._becomes(result)

    def __array_function__(self, function: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        return self._recorder.step(function.__name__, function, args, kwargs)

    def _becomes(self, other: Traced) -> Traced:
        """After a step in place, whoever holds this array sees the result of that step."""
        self._value, self._node = other._value, other._node
        return self


class Recorder:
    """Runs a network and keeps the graph, also of one that ends in an error.

    read: the modules one of whose arrays was asked for by name, as layers themselves do not.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        self.graph = Graph()
        self.read: set[Module] = set()
        self._names = {module: name for name, module in model.named_modules()}
        self._scope = [""]
        self._left = [False]  # for each scope: whether an array has left the recording

    def run(self, *shapes: tuple[int, ...]) -> Graph:
        """Records `forward` on zeros of these shapes, in the state of `eval()`."""
        graph = self.graph
        training = [(module, module.training) for module in self.model.modules()]
        dtypes = [array.dtype for array in self.model.parameters()]
        dtype = dtypes[0] if dtypes else np.dtype(np.float32)
        with _one_at_a_time, _functions_exchanged(self):
            try:
                self.model.eval()
                traced = [self._input(np.zeros(shape, dtype)) for shape in shapes]
                graph.inputs = [array._node for array in traced]
                graph.outputs = _each(lambda array: array._node, Traced, self.model(*traced))
            finally:
                for module, mode in training:
                    module.training = mode
        return graph

    def _input(self, value: np.ndarray) -> Traced:
        return self._traced(value, Node("input", "", value))

    def _traced(self, value: np.ndarray, node: Node) -> Traced:
        self.graph.nodes.append(node)
        return Traced(value, node, self)

    def call(self, module: Module, args: tuple, kwargs: dict) -> Any:
        """A call of a module: a step, if it is a layer of fastconv.nn; else its `forward` is recorded."""
        name = self._names.get(module, self._scope[-1])
        if is_layer(module):
            return self.step(kind_of(module), module.forward, args, kwargs, module, name)
        self._scope.append(name)
        self._left.append(False)
        first, nodes = len(self.graph.nodes), _nodes((args, kwargs))
        try:
            result = module.forward(*args, **kwargs)
        finally:
            self._scope.pop()
            left = self._left.pop()
        if not left:
            return result
        del self.graph.nodes[first:]
        return self._whole(module, name, args, kwargs, nodes, result)

    def left(self) -> None:
        """An array leaves the recording: np.asarray, or a function of ours that was kept from before."""
        self._left[-1] = True

    def _whole(
        self, module: Module, name: str, args: tuple, kwargs: dict, nodes: tuple, result: Any
    ) -> Any:
        """A module as one step of which nothing more is known."""
        values = _each(lambda traced: traced._value, Traced, result)
        parts = values if isinstance(values, (tuple, list)) else [values]
        if not all(isinstance(part, np.ndarray) for part in parts) or nodes != _nodes(
            (args, kwargs)
        ):
            what = type(module).__name__
            raise TypeError(
                f"{name or what}: forward takes an array out of the recording (np.asarray, or a function of "
                f"fastconv that it did not look up when it was called), and so must not change its arguments and "
                f"must return an array or a tuple of arrays"
            )
        return self._result(
            "unknown", values, layer=module, name=name, args=nodes[0], kwargs=nodes[1]
        )

    def step(
        self,
        kind: str,
        function: Callable,
        args: tuple,
        kwargs: dict,
        layer: Module | None = None,
        name: str | None = None,
    ) -> Any:
        """Does `function(*args, **kwargs)` and writes it down."""
        arrays, options = _each(lambda traced: traced._value, Traced, (args, kwargs))
        if layer is None and kind in _LONG:
            result = _unrun(function, *arrays, **options)
        else:
            result = function(*arrays, **options)
        fields = dict(layer=layer, args=_nodes(args), kwargs=_nodes(kwargs))
        if layer is None:
            fields["function"] = function
        name = self._scope[-1] if name is None else name
        result = self._result(kind, result, name=name, **fields)
        if args and getattr(layer, "inplace", kwargs.get("inplace", False)):
            return args[0]._becomes(result)
        return result

    def _result(self, kind: str, result: Any, name: str, **fields: Any) -> Any:
        node = Node(kind, name, result, **fields)
        if isinstance(result, (np.ndarray, np.generic)):
            return self._traced(result, node)
        several = isinstance(result, (tuple, list)) and len(result) > 0
        if not several or not all(isinstance(part, np.ndarray) for part in result):
            return result  # a shape, a number: nothing that follows depends on an array
        self.graph.nodes.append(node)
        parts = []
        for position, part in enumerate(result):
            item = dict(function=operator.getitem, args=(node, position))
            parts.append(self._traced(part, Node("item", name, part, **item)))
        return tuple(parts)


# Functions that take as long as all others together; what they give has no numbers.
_LONG = {f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)} | {"linear"}


def _unrun(function: Callable, *args: Any, **options: Any) -> np.ndarray:
    """Zeros of a convolution's shape: it is asked for one of no images, with weights of no memory."""
    usual = not options and len(args) > 1 and all(type(array) is np.ndarray for array in args[:2])
    if not usual or args[0].ndim < args[1].ndim:
        return function(*args, **options)
    x, weight, *more = args
    y = function(x[:0], np.broadcast_to(np.zeros((), weight.dtype), weight.shape), *more)
    return np.zeros((len(x), *y.shape[1:]), y.dtype)


def record(model: Module, *shapes: tuple[int, ...]) -> Graph:
    """The graph of `model` on inputs of these shapes. Errors are those of `forward`."""
    return Recorder(model).run(*shapes)


def _each(change: Callable, kind: type, value: Any) -> Any:
    """`value` with `change` applied to whatever is of a kind in it, in lists, tuples and dictionaries."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_each(change, kind, part) for part in value)
    if type(value) is dict:
        return {key: _each(change, kind, part) for key, part in value.items()}
    return value


def _nodes(value: Any) -> Any:
    return _each(lambda traced: traced._node, Traced, value)


def is_layer(module: Module) -> bool:
    """Whether the module is one of fastconv.nn's, with nothing below it that would be called."""
    home = type(module).forward.__module__
    return home.startswith("fastconv.nn.") and not isinstance(module, _Row) and not module._modules


_KINDS = {
    **{"PReLU": "prelu", "ReLU": "relu", "ReLU6": "relu6", "SiLU": "silu", "GELU": "gelu"},
    **{"ELU": "elu", "LeakyReLU": "leaky_relu", "LogSoftmax": "log_softmax", "Flatten": "reshape"},
    **{
        "Unflatten": "reshape",
        "Upsample": "interpolate",
        "LocalResponseNorm": "local_response_norm",
    },
    **{"PixelShuffle": "pixel_shuffle", "PixelUnshuffle": "pixel_unshuffle"},
    **{"ChannelShuffle": "channel_shuffle", "GroupNorm": "group_norm", "LayerNorm": "layer_norm"},
}
_FAMILIES = {
    **{"Conv": "conv", "ConvTranspose": "conv_transpose", "MaxPool": "max_pool"},
    **{"AvgPool": "avg_pool", "LPPool": "lp_pool", "MaxUnpool": "max_unpool"},
    **{"AdaptiveAvgPool": "adaptive_avg_pool", "AdaptiveMaxPool": "adaptive_max_pool"},
}
_OF_ANY_RANK = {"BatchNorm": "batch_norm", "InstanceNorm": "instance_norm", "Dropout": "dropout"}


def kind_of(layer: Module) -> str:
    """The name of the function that does what a layer of fastconv.nn does."""
    for base in type(layer).__mro__:
        if base.__module__.startswith("fastconv.nn."):
            name = base.__name__
            break
    if name in _KINDS:
        return _KINDS[name]
    if name[-1:] == "d" and name[-2:-1].isdigit():
        family, rank = name[:-2], name[-2:]
        if family.endswith("Pad"):
            return "pad"
        return _FAMILIES[family] + rank if family in _FAMILIES else _OF_ANY_RANK[family]
    return name.lower()


@contextlib.contextmanager
def _functions_exchanged(recorder: Recorder) -> Iterator[None]:
    """Module.__call__ and the functions are exchanged for recording ones, wherever the model has them."""
    recording = {id(getattr(functional, op)): _recording(op) for op in functional.__all__}
    spaces = [vars(functional), vars(sys.modules[functional.__package__])]
    forwards = (type(module).forward for module in recorder.model.modules())
    spaces += [getattr(forward, "__globals__", {}) for forward in forwards]
    spaces += [vars(module) for module in recorder.model.modules()]  # self.act = F.relu
    changes = {
        (id(space), name): (space, name, value)
        for space in spaces
        for name, value in space.items()
        if id(value) in recording
    }
    call, read = Module.__call__, Module.__getattr__
    try:
        Module.__call__, Module.__getattr__ = _recording_call, _noting(read, recorder)
        for space, name, value in changes.values():
            space[name] = recording[id(value)]
        yield
    finally:
        Module.__call__, Module.__getattr__ = call, read
        for space, name, value in changes.values():
            space[name] = value


def _noting(read: Callable, recorder: Recorder) -> Callable:
    def noting(self: Module, name: str) -> Any:
        value = read(self, name)
        if isinstance(value, np.ndarray):
            recorder.read.add(self)
        return value

    return noting


def _recorder_among(args: tuple, kwargs: dict) -> Recorder | None:
    found = []
    _each(found.append, Traced, (args, kwargs))
    return found[0]._recorder if found else None


def _recording_call(self: Module, *args: Any, **kwargs: Any) -> Any:
    recorder = _recorder_among(args, kwargs)
    if recorder is None:
        return self.forward(*args, **kwargs)
    return recorder.call(self, args, kwargs)


def whole(kind: str, function: Callable) -> Callable:
    """The function, recorded as one step of this kind, whatever it does inside."""

    @functools.wraps(function)
    def step(*args: Any) -> Any:
        recorder = _recorder_among(args, {})
        return function(*args) if recorder is None else recorder.step(kind, function, args, {})

    return step


def _recording(op: str) -> Callable:
    function = getattr(functional, op)

    @functools.wraps(function)
    def recording(*args: Any, **kwargs: Any) -> Any:
        recorder = _recorder_among(args, kwargs)
        if recorder is None:
            return function(*args, **kwargs)
        return recorder.step(op, function, args, kwargs)

    return recording
