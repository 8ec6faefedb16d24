"""Models in ONNX files, run with NumPy alone: `import fastconv.onnx as ort`.

    session = ort.InferenceSession("model.onnx")
    (y,) = session.run(None, {"x": x})

wire.py reads the file's format, schema.py says what its fields are, tensors.py and model.py make
arrays and nodes of them, ops.py has an operator each, from windows.py, values.py and shapes.py,
network.py makes a module of the nodes, which is prepared like any other, and session.py runs it.
"""

from fastconv.onnx.model import Model, load
from fastconv.onnx.ops import OPERATORS
from fastconv.onnx.session import InferenceSession, NodeArg, SessionOptions
from fastconv.onnx.wire import ModelError

__all__ = [
    "InferenceSession",
    "Model",
    "ModelError",
    "NodeArg",
    "SessionOptions",
    "get_available_providers",
    "get_device",
    "load",
    "operators",
]


def operators() -> list[str]:
    """The operators that models may have."""
    return sorted(OPERATORS)


def get_available_providers() -> list[str]:
    """For code written for ONNX Runtime: the CPU."""
    return ["CPUExecutionProvider"]


def get_device() -> str:
    """For code written for ONNX Runtime: the CPU."""
    return "CPU"
