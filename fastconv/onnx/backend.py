"""ONNX's `Backend` interface, by which its own tests and other tools run a model. Needs the package onnx."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.backend.base import Backend, BackendRep

from fastconv.onnx.session import InferenceSession
from fastconv.onnx.wire import ModelError


class FastconvRep(BackendRep):
    """A model ready to run."""

    def __init__(self, model: ModelProto) -> None:
        self._session = InferenceSession(model.SerializeToString())

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """The outputs for the inputs, in the order of the model's lists."""
        names = [value.name for value in self._session.get_inputs()]
        feed = {name: np.asarray(x) for name, x in zip(names, inputs, strict=False)}
        return tuple(self._session.run(None, feed))


class FastconvBackend(Backend):
    """See onnx.backend.base.Backend."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether all of the model's operators and element types are there."""
        try:
            InferenceSession(model.SerializeToString())
        except ModelError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> FastconvRep:
        """ModelError: the model is not supported."""
        return FastconvRep(model)

    @classmethod
    def run_model(
        cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """The outputs of a model that is run once."""
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The CPU alone."""
        return device == "CPU"


is_compatible = FastconvBackend.is_compatible
prepare = FastconvBackend.prepare
run_model = FastconvBackend.run_model
supports_device = FastconvBackend.supports_device
