"""Writes small ONNX files, the wrong ones included, without the onnx package."""

import struct

import numpy as np

from fastconv.onnx.schema import SCHEMA
from fastconv.onnx.tensors import TYPES

_CODES = {kind: code for code, kind in TYPES.items()}


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """An int as a varint, a float as four bytes, text and bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(kind, **fields):
    """A message of the schema's kind; a list is a field that comes several times."""
    numbers = {name: number for number, (name, _) in SCHEMA[kind].items()}
    parts = []
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        parts += [field(numbers[name], each) for each in values]
    return b"".join(parts)


def tensor(name, array, **more):
    array = np.asarray(array)
    code = _CODES[array.dtype.newbyteorder("<")]
    raw = {"raw_data": array.tobytes()} if "data_location" not in more else {}
    return message("Tensor", dims=[*array.shape], data_type=code, name=name, **raw, **more)


def value(name, dtype, shape):
    dims = [
        message("Dimension", **({"dim_value": n} if isinstance(n, int) else {"dim_param": n}))
        for n in shape
    ]
    kind = message(
        "TensorType", elem_type=_CODES[np.dtype(dtype)], shape=message("Shape", dim=dims)
    )
    return message("ValueInfo", name=name, type=message("Type", tensor_type=kind))


def attribute(name, given):
    if isinstance(given, float):
        return message("Attribute", name=name, f=given, type=1)
    if isinstance(given, int):
        return message("Attribute", name=name, i=given, type=2)
    if isinstance(given, str):
        return message("Attribute", name=name, s=given, type=3)
    if isinstance(given, np.ndarray):
        return message("Attribute", name=name, t=tensor("", given), type=4)
    return message("Attribute", name=name, ints=[*given], type=7)


def node(op, inputs, outputs, domain="", **attributes):
    listed = [attribute(name, given) for name, given in attributes.items()]
    return message(
        "Node", input=[*inputs], output=[*outputs], op_type=op, attribute=listed, domain=domain
    )


def model(nodes, inputs, outputs, constants=(), opset=13, **more):
    """inputs, outputs: (name, dtype, shape). constants: (name, array), or a finished tensor."""
    tensors = [each if isinstance(each, bytes) else tensor(*each) for each in constants]
    graph = message(
        "Graph",
        node=[*nodes],
        initializer=tensors,
        input=[value(*each) for each in inputs],
        output=[value(*each) for each in outputs],
    )
    opsets = [message("OperatorSet", domain="", version=opset)]
    return message("Model", ir_version=8, graph=graph, opset_import=opsets, **more)


def small(seed=0):
    """A network of two convolutions, a pooling and a product, for images (N, 1, 8, 8)."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    constants = [
        ("w", normal(4, 1, 3, 3)),
        ("b", normal(4)),
        ("v", normal(3, 64)),
        ("c", normal(3)),
    ]
    nodes = [
        node("Conv", ["x", "w", "b"], ["1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["1"], ["2"]),
        node("MaxPool", ["2"], ["3"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["3"], ["4"]),
        node("Gemm", ["4", "v", "c"], ["y"], transB=1),
    ]
    return model(nodes, [("x", "f4", ["batch", 1, 8, 8])], [("y", "f4", ["batch", 3])], constants)
