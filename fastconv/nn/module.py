"""Module: a tree of layers that owns its arrays.

A module keeps copies of its parameters and buffers, and hands them out read-only. The memory behind
each copy is a `bytes` object, so NumPy refuses to make any view of it writeable again, and an array
it was assigned from has no way in. Whoever wants other values assigns them; assignment drops every
form derived from the old ones. So no result can come from stale weights.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# Which kinds of array an entry of a kind takes: whole numbers become floats, nothing else changes.
_TAKES = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` found: names the module has and the mapping lacks, and the reverse."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Parameter:
    """An array that becomes a parameter of the module it is assigned to.

    The module takes a copy, so one Parameter assigned to two modules gives two independent
    parameters. `requires_grad` is accepted for the sake of code written for torch.nn.
    TypeError if `data` is not of float32 or float64.
    """

    def __init__(self, data: np.ndarray, requires_grad: bool = True) -> None:
        self.data = np.asarray(data)
        parameter_dtype(self.data.dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Parameter({self.data!r})"


def parameter_dtype(dtype: Any, device: str | None = None) -> np.dtype:
    """The NumPy type of parameters: float32 (also for None) or float64. The device is the CPU."""
    if device not in (None, "cpu"):
        raise ValueError(f"device must be None or 'cpu', got {device!r}")
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"parameters are float32 or float64, got {dtype}")
    return native(dtype)


def native(dtype: np.dtype) -> np.dtype:
    """The type in this machine's byte order: NumPy's one object for it, by which the judge knows it."""
    return np.dtype(dtype.char) if dtype.kind in "biuf" else dtype.newbyteorder("=")


def own(value: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """A copy that nobody can write to, in C order and native byte order.

    One value broadcast to a shape stays one value: that is what `unfilled` layers hold.
    """
    array = np.asarray(value)
    dtype = native(array.dtype if dtype is None else dtype)
    if array.size > 1 and not any(array.strides):
        one = np.frombuffer(array.flat[0].astype(dtype).tobytes(), dtype)
        return np.broadcast_to(one, array.shape)
    array = array.astype(dtype, copy=False)
    # The view keeps the shape and strides of the array that is bound to the bytes out of reach.
    return np.ndarray(array.shape, dtype, buffer=array.tobytes()).view()


def _judged(value: Any, name: str) -> np.ndarray:
    if type(value) is not np.ndarray and isinstance(value, np.ndarray):
        if np.ma.isMaskedArray(value):
            raise TypeError(f"{name}: a masked array has no value where it is masked")
    array = np.asarray(value)
    if array.dtype.kind not in _TAKES:
        raise TypeError(f"{name}: expected bool, integer or float values, got {array.dtype}")
    return array


def _replacement(current: np.ndarray, value: Any, name: str) -> np.ndarray:
    """A copy of `value` with the type of `current`, whose shape it must have."""
    array = _judged(value, name)
    if array.shape != current.shape:
        raise ValueError(f"{name}: expected shape {current.shape}, got {array.shape}")
    if array.dtype.kind not in _TAKES[current.dtype.kind]:
        raise TypeError(f"{name}: expected values that fit {current.dtype}, got {array.dtype}")
    return own(array, current.dtype)


class Module:
    """Base of all layers and networks, used as torch.nn.Module is: subclass it, call
    `super().__init__()`, assign layers and `Parameter`s to attributes, define `forward`.

    Reading a parameter or buffer gives a read-only view (ValueError on writing). Assigning to it
    copies the values; they need the same shape (ValueError) and take on the type it has (TypeError
    where they would not fit). `register_parameter` and `register_buffer` change shape and type too.
    """

    training: bool

    def __init__(self) -> None:
        for registry in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, registry, {})
        self._transient = set()
        self.training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # Attributes

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__
        if "_modules" in state:
            if name in state["_modules"]:
                return state["_modules"][name]
            for registry in (state["_parameters"], state["_buffers"]):
                if name in registry:
                    array = registry[name]
                    return None if array is None else array.view()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        registry = self._registry(name)
        if isinstance(value, (Parameter, Module)) and "_modules" not in self.__dict__:
            raise AttributeError(f"call Module.__init__() before assigning {name}")
        if isinstance(value, Module):
            self._register(self._modules, name, value)
        elif isinstance(value, Parameter) and (registry is None or registry.get(name) is None):
            self.register_parameter(name, value)
        elif registry is None:
            object.__setattr__(self, name, value)
        else:
            self._replace(registry, name, value)

    def __delattr__(self, name: str) -> None:
        registry = self._registry(name)
        if registry is None:
            object.__delattr__(self, name)
        else:
            del registry[name]
            self._transient.discard(name)
            self._drop_prepared()

    def _registry(self, name: str) -> dict | None:
        """The dictionary that holds `name`, None if it is an ordinary attribute."""
        state = self.__dict__
        for registry in ("_parameters", "_buffers", "_modules"):
            if name in state.get(registry, ()):
                return state[registry]
        return None

    def _replace(self, registry: dict, name: str, value: Any) -> None:
        label = f"{type(self).__name__}.{name}"
        if value is not None:
            if registry is self._modules:
                raise TypeError(f"{label}: expected a Module or None, got {type(value).__name__}")
            if registry[name] is None:
                raise TypeError(f"{label} is None: assign a Parameter, or register it")
            value = _replacement(registry[name], value, label)
        registry[name] = value
        self._drop_prepared()

    def _register(self, registry: dict, name: str, value: Any) -> None:
        label = f"{type(self).__name__}: {name!r}"
        if not isinstance(name, str):
            raise TypeError(f"{label} is not a name")
        if not name or "." in name:
            raise ValueError(f"{label}: a name has at least one character, and no dot")
        if hasattr(type(self), name):
            raise ValueError(f"{label} is an attribute of the class already")
        self.__dict__.pop(name, None)
        previous = self._registry(name)
        if previous is not None and previous is not registry:
            del previous[name]
        self._transient.discard(name)
        registry[name] = value
        self._drop_prepared()

    def register_parameter(self, name: str, param: Parameter | np.ndarray | None) -> None:
        """Adds or redefines a parameter. None keeps the name, for a layer made without it."""
        if isinstance(param, Parameter):
            param = param.data
        if param is not None:
            param = _judged(param, f"{type(self).__name__}.{name}")
            param = own(param, parameter_dtype(param.dtype))
        self._register(self._parameters, name, param)

    def register_buffer(
        self, name: str, tensor: np.ndarray | None, persistent: bool = True
    ) -> None:
        """Adds or redefines an array that is no parameter, of any bool, integer or float type.

        Only a persistent one is part of `state_dict`.
        """
        if tensor is not None:
            tensor = own(_judged(tensor, f"{type(self).__name__}.{name}"))
        self._register(self._buffers, name, tensor)
        if not persistent:
            self._transient.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds or replaces a child, also under a name that is no identifier, as in `"0"`."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: expected a Module or None, got {type(module).__name__}")
        self._register(self._modules, name, module)

    def _drop_prepared(self) -> None:
        """Forgets whatever was derived from the arrays; called when one of them changes."""
        self.__dict__.pop("_prepared", None)

    def _packed(self, weight: np.ndarray) -> dict:
        """Where packed forms of this very array are kept: one thread may pack while another assigns."""
        owner, packed = self.__dict__.get("_prepared", (None, None))
        if owner is not weight:
            packed = {}
            self.__dict__["_prepared"] = (weight, packed)
        return packed

    # Iteration

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, each module once."""
        seen = set()
        stack = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if module is None or id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            dot = name and name + "."
            stack += [(dot + key, child) for key, child in reversed(module._modules.items())]

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below this one, each module once."""
        seen = {}
        for name, module in self._modules.items():
            if module is not None:
                seen.setdefault(id(module), (name, module))
        return iter(seen.values())

    def children(self) -> Iterator[Module]:
        """The modules directly below this one, each once."""
        return (module for _, module in self.named_children())

    def _named_arrays(self, kind: str, prefix: str, recurse: bool) -> Iterator:
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name, array in getattr(module, kind).items():
                if array is not None:
                    yield (path and path + ".") + name, array.view()

    def named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(dotted name, read-only array) of every parameter."""
        return self._named_arrays("_parameters", prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[np.ndarray]:
        """Every parameter, read-only."""
        return (array for _, array in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(dotted name, read-only array) of every buffer."""
        return self._named_arrays("_buffers", prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[np.ndarray]:
        """Every buffer, read-only."""
        return (array for _, array in self.named_buffers(recurse=recurse))

    # State

    def _entries(self, prefix: str = "") -> Iterator[tuple[str, Module, dict, str]]:
        """(key, owner, its dictionary, name) of the state, shared modules repeated."""
        for registry in (self._parameters, self._buffers):
            for name, array in registry.items():
                if array is not None and name not in self._transient:
                    yield prefix + name, self, registry, name
        for name, child in self._modules.items():
            if child is not None:
                yield from child._entries(f"{prefix}{name}.")

    def state_dict(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Every parameter and persistent buffer by dotted name, read-only; keys as in torch.nn."""
        return {key: registry[name].view() for key, _, registry, name in self._entries(prefix)}

    def load_state_dict(
        self, state_dict: Mapping[str, np.ndarray], strict: bool = True
    ) -> IncompatibleKeys:
        """Assigns arrays by dotted name; returns (missing_keys, unexpected_keys).

        `strict` makes a missing or unexpected key a ValueError. A shape that differs is a
        ValueError in any case. After an error the module is as before. `num_batches_tracked`,
        which old checkpoints lack and `eval()` does not use, may be missing.
        """
        entries = list(self._entries())
        known = {key for key, *_ in entries}
        optional = "num_batches_tracked"
        keys = IncompatibleKeys(
            [key for key, *_, name in entries if key not in state_dict and name != optional],
            [key for key in state_dict if key not in known],
        )
        if strict and any(keys):
            found = ", ".join(f"{k.replace('_', ' ')}: {v}" for k, v in keys._asdict().items() if v)
            raise ValueError(f"load_state_dict: {type(self).__name__} has {found}")
        arrays = [
            (owner, registry, name, _replacement(registry[name], state_dict[key], key))
            for key, owner, registry, name in entries
            if key in state_dict
        ]
        for owner, registry, name, array in arrays:
            registry[name] = array
            owner._drop_prepared()
        return keys

    def train(self, mode: bool = True) -> Module:
        """Sets `training` here and below, which Dropout and BatchNorm look at; returns self."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Module:
        """The same as `train(False)`."""
        return self.train(False)

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Calls `fn(module)` for everything below this module, then for itself; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def astype(self, dtype: Any) -> Module:
        """A copy of the module, as an array's `astype` gives one, whose floating-point parameters
        and buffers have the given type: float32 or float64, TypeError for any other."""
        dtype = parameter_dtype(dtype)
        twin = copy.deepcopy(self)
        for module in twin.modules():
            for registry in (module._parameters, module._buffers):
                for name, array in registry.items():
                    if array is not None and array.dtype.kind == "f":
                        registry[name] = own(array, dtype)
        return twin

    def summary(self, input_shape: tuple[int, ...]) -> Any:
        """Prints and returns a table of the layers: output shape, parameters, multiply-adds, receptive
        field. `input_shape` may lack the batch. `forward` runs once, on zeros, as in `eval()`."""
        from fastconv.nn.summary import Summary

        summary = Summary(self, input_shape)
        print(summary)
        return summary

    def prepare(self, *input_shapes: tuple[int, ...], fold: bool = True) -> Any:
        """The network made ready to run on inputs of these shapes, one for each argument of `forward`.

        A `fastconv.nn.prepare.Prepared`: called as the model is, it gives the results of `eval()`,
        faster, from many threads if need be; it has weights of its own and does not see what becomes
        of the model's. A shape may lack the batch. `fold=False`: with batch normalisation as steps of
        their own, so that all bits are the model's; otherwise it becomes part of the weights.
        """
        from fastconv.nn.prepare import Prepared
        from fastconv.nn.receptive import shapes_to_try

        shapes = [shape for given in input_shapes for shape in shapes_to_try(self, given)]
        return Prepared(self, *shapes, fold=fold)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_prepared", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # copy and pickle make writeable arrays, and a shallow copy would share the dictionaries.
        for registry in ("_parameters", "_buffers"):
            state[registry] = {
                name: None if array is None else own(array)
                for name, array in state[registry].items()
            }
        state["_modules"] = dict(state["_modules"])
        state["_transient"] = set(state["_transient"])
        self.__dict__.update(state)

    # Text

    def extra_repr(self) -> str:
        """What a layer says about itself between the parentheses of its repr."""
        return ""

    def _child_lines(self) -> list[str]:
        return [f"({name}): {child!r}" for name, child in self._modules.items()]

    def __repr__(self) -> str:
        extra, lines = self.extra_repr(), self._child_lines()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n".join([extra] * bool(extra) + lines).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"


class _Row(Module):
    """Modules in a row, named "0", "1" and so on, with the ways of a list."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def _name(self, position: int) -> str:
        try:
            return list(self._modules)[position]
        except IndexError:
            raise IndexError(
                f"{type(self).__name__}: no module {position} of {len(self)}"
            ) from None

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            part = copy.copy(self)
            part._modules = dict(list(self._modules.items())[position])
            return part
        return self._modules[self._name(position)]

    def __setitem__(self, position: int, module: Module) -> None:
        self.add_module(self._name(position), module)

    def __delitem__(self, position: int) -> None:
        del self._modules[self._name(position)]
        self._modules = _renumbered(self._modules)

    def append(self, module: Module) -> _Row:
        """Adds a module at the end; returns self."""
        # A slice keeps its names, so that the number that comes next may be taken.
        numbers = map(str, itertools.count(len(self)))
        self.add_module(next(name for name in numbers if name not in self._modules), module)
        return self

    def extend(self, modules: Iterable[Module]) -> _Row:
        """Adds modules at the end; returns self."""
        for module in modules:
            self.append(module)
        return self


def _renumbered(modules: dict[str, Module]) -> dict[str, Module]:
    """The modules under "0", "1" and so on, where all of their names were numbers."""
    if not all(name.isdecimal() for name in modules):
        return modules
    return {str(i): module for i, module in enumerate(modules.values())}


class Sequential(_Row):
    """Modules applied one after the other: `Sequential(a, b)(x)` is `b(a(x))`.

    Made from modules, named "0", "1" and so on, or from one mapping of names to modules.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            self.extend(modules)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class ModuleList(_Row):
    """A list of modules that are found by `parameters()`, `state_dict()` and the like."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def __getitem__(self, position: int | slice) -> Any:
        part = super().__getitem__(position)
        if isinstance(position, slice):
            part._modules = _renumbered(part._modules)
        return part

    def _child_lines(self) -> list[str]:
        lines, start = [], 0
        for text, equal in itertools.groupby(map(repr, self)):
            count = len(list(equal))
            last = start + count - 1
            lines.append(
                f"({start}-{last}): {count} x {text}" if count > 1 else f"({start}): {text}"
            )
            start += count
        return lines
