"""What a model may ask for: no small file makes a large array or takes long, in any operator."""

import time
import tracemalloc

import numpy as np
import pytest

import fastconv.onnx as ort
from fastconv.onnx import budget
from onnx_files import model, node

MEMORY = 4 << 20
HUGE = 1 << 20  # of its square there are 4 TB


def ints(*values):
    return np.array(values, np.int64)


def chain(op, inputs, n=60, **attributes):
    """A node n times, each on what the last one made."""
    names = ["x", *(f"{i}" for i in range(n - 1)), "y"]
    return [
        node(op, [a if each == "x" else each for each in inputs], [b], **attributes)
        for a, b in zip(names, names[1:], strict=False)
    ]


# Each: nodes, shape of x, constants. Those of x are small, and so is the file.
BOMBS = {
    "Expand": ([node("Expand", ["x", "s"], ["y"])], (1, 1), {"s": ints(HUGE, HUGE)}),
    "Expand beyond 64 bits": ([node("Expand", ["x", "s"], ["y"])], (1, 1), {"s": ints(1 << 62, 1 << 62)}),
    "Tile": ([node("Tile", ["x", "s"], ["y"])], (2, 2), {"s": ints(HUGE, HUGE)}),
    "Tile, wrapping": ([node("Tile", ["x", "s"], ["y"])], (2, 2), {"s": ints(1 << 32, 1 << 32)}),
    "Tile, doubling": (chain("Tile", ["x", "s"]), (2,), {"s": ints(2)}),
    "Concat, doubling": (chain("Concat", ["x", "x"], axis=0), (2,), {}),
    "Concat of many": ([node("Concat", ["x"] * 2000, ["y"], axis=0)], (1000,), {}),
    "Add": ([node("Add", ["x", "c"], ["y"])], (HUGE, 1), {"c": np.zeros(HUGE, np.float32)}),
    "Sum": ([node("Sum", ["x", "x", "c"], ["y"])], (1 << 14, 1), {"c": np.zeros(1 << 14, np.float32)}),
    "Where": ([node("Where", ["b", "x", "x"], ["y"])], (1 << 14, 1), {"b": np.zeros(1 << 14, bool)}),
    "Mod": ([node("Mod", ["x", "c"], ["y"], fmod=1)], (1 << 14, 1), {"c": np.ones(1 << 14, np.float32)}),
    "PRelu": ([node("PRelu", ["x", "c"], ["y"])], (1 << 14, 1), {"c": np.ones(1 << 14, np.float32)}),
    "Equal": ([node("Equal", ["x", "c"], ["y"])], (1 << 14, 1), {"c": np.ones(1 << 14, np.float32)}),
    "MatMul": ([node("MatMul", ["x", "c"], ["y"])], (1 << 14, 1), {"c": np.ones((1, 1 << 14), np.float32)}),
    "Gemm": ([node("Gemm", ["x", "c"], ["y"])], (1 << 14, 1), {"c": np.ones((1, 1 << 14), np.float32)}),
    "Gemm's bias": (
        [node("Gemm", ["x", "c", "b"], ["y"])], (1, 1),
        {"c": np.ones((1, 1 << 12), np.float32), "b": np.ones((1 << 12, 1), np.float32)},
    ),
    "ConstantOfShape": (
        [node("ConstantOfShape", ["s"], ["a"]), node("Add", ["a", "x"], ["y"])], (1,), {"s": ints(HUGE, HUGE)},
    ),
    "ConstantOfShape, negative": (
        [node("ConstantOfShape", ["s"], ["a"]), node("Add", ["a", "x"], ["y"])], (1,), {"s": ints(-1, -HUGE)},
    ),
    "Range": (
        [node("Range", ["0", "n", "1"], ["a"]), node("Add", ["a", "x"], ["y"])], (1,),
        {"0": np.float32(0), "n": np.float32(1e30), "1": np.float32(1)},
    ),
    "Range, for ever": (
        [node("Range", ["0", "n", "0"], ["a"]), node("Add", ["a", "x"], ["y"])], (1,),
        {"0": np.float32(0), "n": np.float32(np.inf)},
    ),
    "Pad": ([node("Pad", ["x", "s"], ["y"])], (1, 1), {"s": ints(HUGE, HUGE, HUGE, HUGE)}),
    "Pad, reflecting": ([node("Pad", ["x", "s"], ["y"], mode="reflect")], (2, 2), {"s": ints(HUGE, HUGE, HUGE, HUGE)}),
    "Gather": ([node("Gather", ["x", "i"], ["y"])], (1, HUGE), {"i": np.zeros(1 << 14, np.int64)}),
    "Resize": (
        [node("Resize", ["x", "", "", "s"], ["y"])], (1, 1, 2, 2), {"s": ints(1, 1, HUGE, HUGE)},
    ),
    "Resize by scales": (
        [node("Resize", ["x", "", "s"], ["y"])], (1, 1, 2, 2), {"s": np.float32([1, 1, 1e30, 1])},
    ),
    "Resize, smoothing": (
        [node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)], (1, 1, 2, 2),
        {"s": np.float32([1, 1, 1e-9, 1])},
    ),
    "Cast": ([node("Cast", ["x"], ["y"], to=11)], (1 << 20,), {}),
    "Conv's padding": (
        [node("Conv", ["x", "w"], ["y"], pads=[1 << 30] * 4)], (1, 1, 4, 4), {"w": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "Conv's padding beyond 64 bits": (
        [node("Conv", ["x", "w"], ["y"], pads=[(1 << 63) - 1] * 4)], (1, 1, 4, 4),
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "Conv's dilation": (
        [node("Conv", ["x", "w"], ["y"], dilations=[1 << 40, 1], pads=[1 << 41, 1, 1 << 41, 1])], (1, 1, 4, 4),
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "Conv, of many channels": (
        [node("Conv", ["x", "w"], ["y"])], (1, 1, 64, 64), {"w": np.ones((1 << 14, 1, 1, 1), np.float32)},
    ),
    "ConvTranspose's stride": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[HUGE, HUGE])], (1, 1, 4, 4),
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "ConvTranspose's output_shape": (
        [node("ConvTranspose", ["x", "w"], ["y"], output_shape=[HUGE, HUGE])], (1, 1, 4, 4),
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "MaxPool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[HUGE] * 4)], (1, 1, 4, 4), {}),
    "AveragePool": ([node("AveragePool", ["x"], ["y"], kernel_shape=[HUGE, HUGE], pads=[HUGE] * 4)], (1, 1, 4, 4), {}),
    "LpPool": ([node("LpPool", ["x"], ["y"], kernel_shape=[HUGE, 3], pads=[HUGE] * 4)], (1, 1, 4, 4), {}),
    "MaxUnpool": (
        [node("MaxUnpool", ["x", "i", "s"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], (1, 1, 2, 2),
        {"i": np.zeros((1, 1, 2, 2), np.int64), "s": ints(1, 1, HUGE, HUGE)},
    ),
    "MaxUnpool's stride": (
        [node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[1 << 40, 1 << 40])], (1, 1, 2, 2),
        {"i": np.zeros((1, 1, 2, 2), np.int64)},
    ),
    "LRN": ([node("LRN", ["x"], ["y"], size=1 << 40)], (1, 4, 2, 2), {}),
    "LayerNormalization": (
        [node("LayerNormalization", ["x", "c"], ["y", "m", "i"])], (1 << 14, 1), {"c": np.ones(1 << 14, np.float32)},
    ),
    "QuantizeLinear": (
        [node("QuantizeLinear", ["x", "c"], ["y"])], (1 << 14, 1), {"c": np.ones(1 << 14, np.float32)},
    ),
    "QuantizeLinear in blocks": (
        [node("QuantizeLinear", ["x", "c"], ["y"], block_size=1 << 40)], (2, 4), {"c": np.ones((2, 1), np.float32)},
    ),
    "Clip": ([node("Clip", ["x", "c"], ["y"])], (1 << 14, 1), {"c": np.ones(1 << 14, np.float32)}),
    "constants alone": (
        [node("Expand", ["c", "s"], ["a"]), node("ReduceSum", ["a"], ["b"]), node("Add", ["b", "x"], ["y"])], (1,),
        {"c": np.zeros((), np.float32), "s": ints(HUGE, HUGE)},
    ),
    "held at once": (
        [*[node("Expand", ["x", "s"], [f"{i}"]) for i in range(9)], node("Sum", [f"{i}" for i in range(9)], ["y"])],
        (1,), {"s": ints(1 << 17)},
    ),
}  # fmt: skip
# These take long and little memory.
SLOW = {
    "Conv": (
        [node("Expand", ["x", "s"], ["a"]), node("Conv", ["a", "a"], ["y"], pads=[511] * 4)], (1, 1, 1, 1),
        {"s": ints(1, 1, 1023, 1023)},
    ),
    "MaxPool": (
        [node("Expand", ["x", "s"], ["a"]), node("MaxPool", ["a"], ["y"], kernel_shape=[512, 512], dilations=[2, 2])],
        (1, 1, 1, 1), {"s": ints(1, 1, 2000, 2000)},
    ),
    "LRN": ([node("LRN", ["x"], ["y"], size=1 << 19)], (1, 1, 1, 1), {}),
    "MatMul": (
        [node("Expand", ["x", "s"], ["a"]), node("MatMul", ["a", "a"], ["b"]), node("MatMul", ["b", "a"], ["y"])],
        (1, 1), {"s": ints(1000, 1000)},
    ),
    "many nodes": (
        [node("Expand", ["x", "s"], ["0"]), *(node("Relu", [f"{i}"], [f"{i + 1}"]) for i in range(3000)),
         node("Relu", ["3000"], ["y"])],
        (1,), {"s": ints(1 << 19)},
    ),
}  # fmt: skip


def session(case, **limits):
    nodes, shape, constants = case
    outputs = [("y", "f4", ["?"])]
    data = model(nodes, [("x", "f4", [*shape])], outputs, [*constants.items()], opset=17)
    return ort.InferenceSession(data, **limits), np.ones(shape, np.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", BOMBS)
def test_nothing_large_is_made(what):
    run, x = session(BOMBS[what], memory_limit=MEMORY)
    tracemalloc.start()
    try:
        with pytest.raises(ort.ModelError, match=r"^\w+ ''"):
            run(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes + 4 * MEMORY


@pytest.mark.parametrize("what", SLOW)
def test_nothing_takes_long(what):
    run, x = session(SLOW[what], memory_limit=1 << 30, work_limit=10**9)
    start = time.perf_counter()
    with pytest.raises(ort.ModelError, match="work"):
        run(x)
    assert time.perf_counter() - start < 2


def test_the_limits_that_nobody_names(monkeypatch):
    def refused(what):
        run, x = session(BOMBS[what])
        with pytest.raises(ort.ModelError, match="limit"):
            run(x)

    refused("Expand")
    refused("Conv's padding")
    monkeypatch.setattr(budget.resource, "getrlimit", lambda what: (1 << 30, -1))
    assert budget.default_memory() <= 1 << 29
    refused("Tile, doubling")  # which holds nearly as much as it may
    assert budget.default_work(0, 0) < budget.default_work(10**6, 10**6)


def test_what_fits_runs_again_and_again():
    """What a run held is forgotten with it, and values that nobody needs are not counted."""
    nodes = [node("Expand", ["x", "s"], ["0"])]
    nodes += [node("Relu", [f"{i}"], [f"{i + 1}"]) for i in range(20)]
    case = ([*nodes, node("ReduceSum", ["20"], ["y"])], (1,), {"s": ints(1 << 18)})
    run, x = session(case, memory_limit=MEMORY)
    for _ in range(3):
        assert run(x).item() == 1 << 18
