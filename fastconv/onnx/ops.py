"""ONNX's operators on arrays: `OPERATORS[op](context, *inputs)` gives the outputs.

Each is a few lines of fastconv's functions and of NumPy, written from the operator's definition in the
ONNX standard (github.com/onnx/onnx, docs/Operators.md). Convolution, pooling and activations are
fastconv's; everything else may be as slow as NumPy is. Inputs may be arrays that are being recorded
(fastconv.nn.graph), so a function asks them for shapes and types, and hands them on; only where an
operator needs values, such as a new shape, does it take them with `Context.constant`.
"""

from fastconv.onnx import shapes, values, windows  # noqa: F401  each fills the table
from fastconv.onnx.context import OPERATORS, Context

__all__ = ["OPERATORS", "Context"]
