"""Other libraries on the same problems: each function returns the call to time.

Only a worker process (workers.py) calls these, so that no two libraries' thread pools share a
process. What a library prepares once in its ordinary use (a session, a network) is not timed.
"""

import importlib.util
from collections.abc import Callable

import numpy as np

from benchmarks.functions import Call, inputs_of
from benchmarks.problems import Problem

Run = Callable[[], np.ndarray]


def installed() -> list[str]:
    """The peers that can be imported here."""
    return [name for name in PEERS if importlib.util.find_spec(MODULES[name])]


def torch(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """PyTorch eager."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    image, *rest = (None if a is None else torch.from_numpy(a) for a in (x, *parameters))
    kernel, stride, pad = (p.kh, p.kw), (p.sh, p.sw), (p.ph, p.pw)
    f = torch.nn.functional
    calls = {
        "conv2d": lambda: f.conv2d(image, *rest, stride, pad, 1, p.groups),
        "max_pool2d": lambda: f.max_pool2d(image, kernel, stride, pad, 1, bool(p.ceil)),
        "avg_pool2d": lambda: f.avg_pool2d(image, kernel, stride, pad, bool(p.ceil)),
    }
    return lambda: calls[p.op]().numpy()


def torch_function(call: Call, threads: int, dtype: str) -> Run:
    """torch.nn.functional's op of the same name."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    if not hasattr(torch.nn.functional, call.op):
        raise ValueError(f"cannot: it has no function {call.op}")
    inputs = [
        torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in inputs_of(call.op, dtype)
    ]
    function = getattr(torch.nn.functional, call.op)
    return lambda: function(*inputs, **call.options).numpy()


def onnxruntime(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """A session of one node; the weights are part of the model, so it may pack them beforehand."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_model(p, x, *parameters), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": x})[0]


def opencv(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """filter2D where there is one channel, the dnn module elsewhere."""
    import cv2

    cv2.setNumThreads(threads)
    if p.is_conv and p.ic == p.oc == p.batch == p.sh == p.sw == 1 and p.kh == 2 * p.ph + 1:
        image, kernel = x[0, 0], parameters[0][0, 0]
        border = cv2.BORDER_CONSTANT
        return lambda: cv2.filter2D(image, -1, kernel, borderType=border)[None, None]
    if x.dtype != np.float32:
        raise ValueError("cannot: its dnn module computes in float32")
    net = cv2.dnn.readNetFromONNX(np.frombuffer(onnx_model(p, x, *parameters), np.uint8))

    def run():
        net.setInput(x)
        return net.forward()

    return run


def scipy(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """ndimage where channels do not mix, else transforms; a stride drops finished results."""
    import scipy.fft
    from scipy import ndimage

    _, _, oh, ow = p.output_shape
    fill = -np.inf if p.op == "max_pool2d" else 0
    below, right = (oh - 1) * p.sh + p.kh - p.ih - p.ph, (ow - 1) * p.sw + p.kw - p.iw - p.pw
    edges = (0, 0), (0, 0), (p.ph, max(below, 0)), (p.pw, max(right, 0))
    window = (1, 1, p.kh, p.kw)

    def centres(y):
        top, left = p.kh // 2, p.kw // 2
        rows = slice(top, top + (oh - 1) * p.sh + 1, p.sh)
        return y[:, :, rows, left : left + (ow - 1) * p.sw + 1 : p.sw]

    def padded():
        return np.pad(x, edges, constant_values=fill)

    def depthwise():
        planes, (weight, bias) = padded(), parameters
        sources = np.arange(p.oc) * p.groups // p.oc
        y = [
            ndimage.correlate(planes[:, c], w, mode="constant")
            for c, w in zip(sources, weight, strict=True)
        ]
        return _plus(centres(np.stack(y, 1)), bias)

    def transforms():
        image, (weight, bias) = padded(), parameters
        size = image.shape[2:]
        with scipy.fft.set_workers(threads):
            spectra = scipy.fft.rfft2(weight[..., ::-1, ::-1], size)
            products = np.einsum("bihw,oihw->bohw", scipy.fft.rfft2(image), spectra)
            y = scipy.fft.irfft2(products, size)
        y = y[:, :, p.kh - 1 :: p.sh, p.kw - 1 :: p.sw]
        return _plus(y[:, :, :oh, :ow], bias)

    if p.op == "max_pool2d":
        return lambda: centres(ndimage.maximum_filter(padded(), window, mode="constant"))
    if p.op == "avg_pool2d":
        return lambda: centres(ndimage.uniform_filter(padded(), window, mode="constant"))
    if p.groups == p.ic:
        return depthwise
    if p.groups > 1 or p.ic * p.oc > MOST_TRANSFORMS:
        raise ValueError("cannot: it correlates without channels; by transforms too slow")
    return transforms


def onnx_model(p: Problem, x: np.ndarray, *parameters: np.ndarray) -> bytes:
    """The problem as an ONNX model of one node with one input, x."""
    try:
        import onnx
    except ImportError:
        raise ValueError("cannot: the model needs the onnx package") from None

    element = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    arrays = {f"p{i}": a for i, a in enumerate(parameters) if a is not None}
    attributes = {"pads": [p.ph, p.pw] * 2, "strides": [p.sh, p.sw], "kernel_shape": [p.kh, p.kw]}
    attributes |= {
        "conv2d": {"group": p.groups},
        "max_pool2d": {"ceil_mode": p.ceil},
        "avg_pool2d": {"ceil_mode": p.ceil, "count_include_pad": 1},
    }[p.op]
    node = onnx.helper.make_node(ONNX_OPS[p.op], ["x", *arrays], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "problem",
        [onnx.helper.make_tensor_value_info("x", element, x.shape)],
        [onnx.helper.make_tensor_value_info("y", element, p.output_shape)],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    # Old enough for every peer's reader, new enough for all that is used here.
    opsets = [onnx.helper.make_opsetid("", 13)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _plus(y: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return y if bias is None else y + bias[:, None, None]


PEERS = {"torch": torch, "onnxruntime": onnxruntime, "opencv": opencv, "scipy": scipy}
MODULES = {"torch": "torch", "onnxruntime": "onnxruntime", "opencv": "cv2", "scipy": "scipy"}
ONNX_OPS = {"conv2d": "Conv", "max_pool2d": "MaxPool", "avg_pool2d": "AveragePool"}
# A pair of channels is a transform of a plane; 64 x 64 of them take about 0.1 s.
MOST_TRANSFORMS = 64 * 64
