"""Running a model: `InferenceSession`, with the names and arguments of ONNX Runtime's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastconv import _memory
from fastconv._options import using
from fastconv.onnx.model import Value, load
from fastconv.onnx.network import Network
from fastconv.onnx.wire import DependsOnValues

_TYPES = {"float32": "float", "float64": "double", "object": "string"}


class SessionOptions(SimpleNamespace):
    """Takes whatever ONNX Runtime's options are called; `intra_op_num_threads` is obeyed, 0: all."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"intra_op_num_threads": 0} | options)


class NodeArg:
    """An input or output: `name`, `type` such as "tensor(float)", `shape` of ints, names and None."""

    def __init__(self, value: Value) -> None:
        kind = value.dtype.name
        self.name, self.type = value.name, f"tensor({_TYPES.get(kind, kind)})"
        self.shape = None if value.shape is None else [*value.shape]

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


class InferenceSession:
    """A model from a path or from the bytes of a file, ready to run.

        session = fastconv.onnx.InferenceSession("model.onnx")
        (scores,) = session.run(None, {"image": x})

    The network is prepared for the shapes of its inputs at the first run with them
    (`fastconv.nn.Module.prepare`: folded, fused, weights packed, buffers planned); the last eight
    combinations are kept. A model whose shapes depend on its inputs' values, or whose inputs are not
    all float32, runs node after node instead. Many threads may run one session at once; results belong to the caller.
    Sizes that a model leaves open may be anything, those that it states are required.

    A model file may come from anyone: sizes and work are compared with limits before anything is made.
    memory_limit: bytes that a run's values may take together, weights in the file not counted; by default
    half of what the machine, the container and RLIMIT_AS allow. work_limit: multiply-adds of a run, or
    what takes as long; by default 10^12, some ten seconds, and 100 for each pair of a weight and a number
    fed. Whoever trusts a model that needs more says so.

    sess_options: see SessionOptions. providers and whatever else ONNX Runtime takes: ignored.
    OSError: the path cannot be read. ModelError, a ValueError: what the file holds is damaged or not
    supported, see `fastconv.onnx.model.load`; nothing has run then. A run may raise it too: for inputs
    that do not fit an operator, which is named, and for one that exceeds a limit.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence | None = None,
        provider_options: Sequence | None = None,
        *,
        memory_limit: int | None = None,
        work_limit: int | None = None,
        **ignored: Any,
    ) -> None:
        self._network = Network(load(path_or_bytes), memory_limit, work_limit)
        self._threads = getattr(sess_options, "intra_op_num_threads", 0) or None
        self._prepared: Any = None
        self._lock = Lock()
        self._prepares = bool(self._model.inputs)

    @property
    def _model(self):
        return self._network.model

    def get_inputs(self) -> list[NodeArg]:
        """What `run` must be fed with."""
        return [NodeArg(value) for value in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """What `run` returns."""
        return [NodeArg(value) for value in self._model.outputs]

    def get_modelmeta(self) -> SimpleNamespace:
        """`custom_metadata_map`: what the model's maker wrote into the file."""
        return SimpleNamespace(custom_metadata_map=dict(self._model.metadata))

    def get_providers(self) -> list[str]:
        """Where it runs."""
        return ["CPUExecutionProvider"]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[np.ndarray]:
        """The outputs of these names, or all, for the arrays in `input_feed`.

        TypeError: an array of another element type than the model's. ValueError: a name that the
        model does not have or that is missing, or a shape that it does not take.
        """
        names = [value.name for value in self._model.outputs]
        wanted = names if output_names is None else [*output_names]
        for name in wanted:
            if name not in names:
                raise ValueError(f"the model has no output {name!r}, only {names}")
        outputs = dict(zip(names, self._outputs(self._arrays(input_feed)), strict=True))
        return [outputs[name] for name in wanted]

    def __call__(self, *inputs: Any) -> Any:
        """The outputs for the inputs in the model's order; a single one as an array."""
        names = [value.name for value in self._model.inputs]
        if len(inputs) != len(names):
            raise TypeError(f"the model takes {len(names)} inputs, {names}, got {len(inputs)}")
        outputs = self.run(None, dict(zip(names, inputs, strict=True)))
        return outputs[0] if len(outputs) == 1 else outputs

    def _arrays(self, feed: Mapping[str, Any]) -> list[np.ndarray]:
        names = [value.name for value in self._model.inputs]
        missing, more = [n for n in names if n not in feed], [n for n in feed if n not in names]
        if missing or more:
            raise ValueError(f"the model takes {names}; missing {missing}, unknown {more}")
        return [_fitting(value, np.asarray(feed[value.name])) for value in self._model.inputs]

    def _outputs(self, arrays: list[np.ndarray]) -> Sequence[np.ndarray]:
        # infinities and NaN are results, not warnings
        with using(threads=self._threads), np.errstate(all="ignore"):
            if self._prepares and all(array.dtype == np.float32 for array in arrays):
                try:
                    return self._prepared_for(arrays)(*arrays)
                except DependsOnValues:
                    self._prepares = False
            return [np.array(y) for y in self._network(*arrays)]

    def _prepared_for(self, arrays: list[np.ndarray]) -> Any:
        """Made by the first thread that comes; others wait, for a second one would take as much memory."""
        with self._lock:
            if self._prepared is None:
                self._prepared = self._network.prepare(*(array.shape for array in arrays))
                for weights in self._model.constants.values():
                    _memory.let_go(weights)  # what is needed of them is packed
            return self._prepared


def _fitting(value: Value, array: np.ndarray) -> np.ndarray:
    if array.dtype != value.dtype:
        raise TypeError(f"{value.name}: the model takes {value.dtype}, got {array.dtype}")
    shape = value.shape
    if shape is not None:
        sizes = zip(shape, array.shape, strict=False)
        fits = len(shape) == array.ndim and all(
            given == size or not isinstance(size, int) or size < 0 for size, given in sizes
        )
        if not fits:
            raise ValueError(f"{value.name}: the model takes {[*shape]}, got {[*array.shape]}")
    return array
