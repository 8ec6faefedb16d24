"""Small models for fuzz_onnx.py to start from, one or more an operator, with its options."""

import numpy as np

import fastconv.onnx as ort
from onnx_files import model, node, small


def _f(*shape):
    return (np.arange(np.prod(shape, dtype=int)) % 5 - 2).astype(np.float32).reshape(shape)


def _i(*values):
    return np.array(values, np.int64)


IMAGE = (1, 4, 6, 6)
WINDOW = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
ODD = dict(kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 2, 1], dilations=[2, 1], ceil_mode=1)
SCALE, ZERO, BYTE = np.float32(0.5), np.uint8(3), np.uint8
# op: (shape of x, its type, constants in the order of the inputs, attributes), several of them.
_CASES = {
    "Conv": [
        (IMAGE, "f4", [_f(4, 1, 3, 3), _f(4)], dict(group=4, pads=[1, 1, 1, 1])),
        (IMAGE, "f4", [_f(2, 4, 3, 3)], dict(auto_pad="SAME_LOWER", strides=[2, 2], dilations=[1, 2])),
        ((1, 2, 9), "f4", [_f(2, 2, 3)], dict(pads=[2, 0])),
        ((1, 1, 3, 3, 3), "f4", [_f(1, 1, 2, 2, 2)], {}),
        (IMAGE, "f2", [_f(1, 4, 1, 1).astype(np.float16)], {}),
    ],
    "ConvTranspose": [
        (IMAGE, "f4", [_f(4, 2, 3, 3), _f(2)], dict(strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 1])),
        (IMAGE, "f4", [_f(4, 1, 3, 3)], dict(strides=[2, 2], output_shape=[12, 12], group=2)),
        (IMAGE, "f4", [_f(4, 1, 2, 2)], dict(auto_pad="SAME_UPPER", strides=[2, 2], dilations=[2, 2])),
    ],
    "ConvInteger": [(IMAGE, "u1", [_f(2, 4, 3, 3).astype("i1"), ZERO, np.int8(1)], {})],
    "QLinearConv": [
        (IMAGE, "u1", [SCALE, ZERO, _f(2, 4, 1, 1).astype("i1"), np.float32([1, 2]), np.int8(0), SCALE, ZERO,
                       np.int32([1, 2])], {}),
    ],
    "QuantizeLinear": [
        (IMAGE, "f4", [np.float32([1, 2, 3, 4]), np.uint8([1, 2, 3, 4])], dict(axis=1)),
        ((2, 6), "f4", [_f(2, 2) + 3, np.int8([[0, 1], [2, 3]])], dict(axis=1, block_size=3)),
    ],
    "DequantizeLinear": [(IMAGE, "u1", [np.float32([1, 2, 3, 4]), np.uint8([1, 2, 3, 4])], dict(axis=1))],
    "MaxPool": [(IMAGE, "f4", [], WINDOW), (IMAGE, "f4", [], ODD), (IMAGE, "u1", [], WINDOW)],
    "AveragePool": [(IMAGE, "f4", [], WINDOW), (IMAGE, "f4", [], dict(ODD, count_include_pad=1))],
    "LpPool": [(IMAGE, "f4", [], dict(WINDOW, p=3))],
    "MaxUnpool": [
        ((1, 1, 2, 2), "f4", [_i(0, 3, 9, 15).reshape(1, 1, 2, 2), _i(1, 1, 5, 5)],
         dict(kernel_shape=[2, 2], strides=[2, 2])),
    ],
    "BatchNormalization": [(IMAGE, "f4", [_f(4), _f(4), _f(4), _f(4) + 3], dict(epsilon=0.1))],
    "InstanceNormalization": [(IMAGE, "f4", [_f(4), _f(4)], {})],
    "LayerNormalization": [((2, 6), "f4", [_f(6), _f(6)], dict(axis=-1))],
    "LRN": [(IMAGE, "f4", [], dict(size=3, alpha=0.1))],
    "Gemm": [
        ((2, 3), "f4", [_f(4, 3), _f(4)], dict(transB=1)),
        ((3, 2), "f4", [_f(3, 4), _f(4)], dict(transA=1, alpha=0.5)),
    ],
    "MatMul": [((2, 3, 4), "f4", [_f(4, 5)], {}), ((4,), "f4", [_f(4)], {})],
    "Pow": [(IMAGE, "f4", [_f(4, 1, 1)], {}), (IMAGE, "i8", [np.int64(3)], {})],
    "Clip": [(IMAGE, "f4", [np.float32(-1), np.float32(1)], {})],
    "PRelu": [(IMAGE, "f4", [_f(4, 1, 1)], {})],
    "Gelu": [(IMAGE, "f4", [], dict(approximate="tanh"))],
    "Where": [((2, 2), "?", [_f(2, 1), _f(1, 2)], {})],
    "Dropout": [(IMAGE, "f4", [np.float32(0.5), np.bool_(0)], {})],
    "Concat": [(IMAGE, "f4", [_f(1, 2, 6, 6)], dict(axis=1))],
    "Split": [(IMAGE, "f4", [_i(1, 3)], dict(axis=1))],
    "Slice": [(IMAGE, "f4", [_i(1, 5), _i(3, 0), _i(1, -1), _i(1, -2)], {})],
    "Gather": [(IMAGE, "f4", [_i(0, -1, 2)], dict(axis=1))],
    "Reshape": [(IMAGE, "f4", [_i(0, -1, 3)], {})],
    "Flatten": [(IMAGE, "f4", [], dict(axis=2))],
    "Transpose": [(IMAGE, "f4", [], dict(perm=[0, 2, 3, 1]))],
    "Squeeze": [(IMAGE, "f4", [_i(0)], {})],
    "Unsqueeze": [(IMAGE, "f4", [_i(0, -1)], {})],
    "Expand": [((4, 1), "f4", [_i(2, 1, 6)], {})],
    "Tile": [((2, 3), "f4", [_i(2, 3)], {})],
    "Shape": [(IMAGE, "f4", [], dict(start=1, end=-1))],
    "Constant": [(None, None, [], dict(value=_f(2)))],
    "ConstantOfShape": [(None, None, [_i(2, 3)], dict(value=_f(1)))],
    "Range": [(None, None, [np.float32(1), np.float32(9), np.float32(2)], {})],
    "CumSum": [(IMAGE, "f4", [np.int64(-2)], dict(exclusive=1, reverse=1))],
    "Celu": [(IMAGE, "f4", [], dict(alpha=0.5))],
    "ThresholdedRelu": [(IMAGE, "f8", [], dict(alpha=0.5))],
    "Cast": [(IMAGE, "f4", [], dict(to=7))],
    "CastLike": [(IMAGE, "f4", [np.int8(0)], {})],
    "Pad": [
        (IMAGE, "f4", [_i(0, 0, 1, -1, 0, 0, 2, 1), np.float32(3)], {}),
        (IMAGE, "f4", [_i(1, 2, 3, 4), None, _i(2, 3)], dict(mode="reflect")),
        (IMAGE, "f4", [_i(0, 0, 1, 1, 0, 0, 2, 1)], dict(mode="wrap")),
    ],
    "Resize": [
        (IMAGE, "f4", [None, None, _i(1, 4, 9, 3)], dict(mode="cubic", antialias=1)),
        (IMAGE, "f4", [None, np.float32([1, 1, 2, 0.6])], dict(mode="nearest", nearest_mode="ceil")),
        (IMAGE, "f4", [_f(8), None, _i(1, 4, 5, 5)],
         dict(mode="linear", coordinate_transformation_mode="tf_crop_and_resize")),
        (IMAGE, "f4", [None, None, _i(7, 8)], dict(axes=[2, 3], keep_aspect_ratio_policy="not_larger", mode="linear")),
    ],
    "Upsample": [(IMAGE, "f4", [np.float32([1, 1, 2, 1.5])], dict(mode="linear"))],
    "DepthToSpace": [(IMAGE, "f4", [], dict(blocksize=2, mode="CRD"))],
    "SpaceToDepth": [(IMAGE, "f4", [], dict(blocksize=2))],
    "Softmax": [(IMAGE, "f4", [], dict(axis=1))],
    "ArgMax": [(IMAGE, "f4", [], dict(axis=1, keepdims=0, select_last_index=1))],
    "Mod": [(IMAGE, "i4", [np.int32(3)], {})],
    "Not": [(IMAGE, "?", [], {})],
}  # fmt: skip
_OF_TWO = "Add Sub Mul Div Equal Less Greater LessOrEqual GreaterOrEqual Sum Max Min Mean".split()
_OF_BOOLS = "And Or Xor".split()
_MORE = {"MaxPool": ["i"], "Split": ["i"], "Dropout": ["i"], "LayerNormalization": ["m", "i"]}


def seeds():
    """{name: file} of them all."""
    files = {"small": small()}
    for op in ort.operators():
        for n, (shape, dtype, constants, attributes) in enumerate(_cases(op)):
            files[f"{op}-{n}"] = _one(op, shape, dtype, constants, attributes)
    chain = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "0"], ["n"], axis=0),
        node("Reshape", ["n", "-1"], ["m"]), node("Concat", ["m", "-1"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["r"]), node("Add", ["r", "r"], ["y"]),
    ]  # fmt: skip
    constants = [("0", np.int64(0)), ("-1", _i(-1))]
    files["shapes"] = model(chain, [("x", "f4", ["n", 2, 3])], [("y", "f4", ["n", 6])], constants)
    block = [
        node("Conv", ["x", "w", "b"], ["1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["1", "b", "b", "b", "v"], ["2"]),
        node("Add", ["2", "x"], ["3"]), node("Relu", ["3"], ["4"]),
        node("Concat", ["4", "x"], ["5"], axis=1), node("GlobalAveragePool", ["5"], ["6"]),
        node("Flatten", ["6"], ["7"]), node("Softmax", ["7"], ["y"]),
    ]  # fmt: skip
    constants = [("w", _f(4, 4, 3, 3)), ("b", _f(4)), ("v", _f(4) + 3)]
    files["residual"] = model(block, [("x", "f4", IMAGE)], [("y", "f4", [1, 8])], constants)
    return files


def _cases(op):
    if op in _OF_TWO:
        return [(IMAGE, "f4", [_f(4, 1, 1) + 1], {}), (IMAGE, "i8", [_i(1, 2, -3, 4, 5, 6)], {})]
    if op in _OF_BOOLS:
        return [((2, 2), "?", [np.array([True, False])], {})]
    if op.startswith("Reduce"):
        return [(IMAGE, "f4", [], dict(axes=[1, -1], keepdims=0))]
    return _CASES.get(op, [(IMAGE, "f4", [], {})])


def _one(op, shape, dtype, constants, attributes):
    """One node. What one opset has as an attribute another has as an input: 12 for reductions, else 17."""
    given = [] if shape is None else ["x"]
    names = ["" if each is None else f"c{i}" for i, each in enumerate(constants)]
    one = node(op, given + names, ["y", *_MORE.get(op, [])], **attributes)
    tensors = [(name, each) for name, each in zip(names, constants, strict=True) if name]
    outputs = [("y", "f4", ["?"])] + [(name, "i8", ["?"]) for name in _MORE.get(op, [])]
    opset = 12 if op.startswith("Reduce") else 9 if op == "Upsample" else 17
    inputs = [] if shape is None else [("x", dtype, shape)]
    return model([one], inputs, outputs, tensors, opset)
