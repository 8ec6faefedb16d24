"""Other libraries on the same problems: each function returns the call to time.

Only a worker process (workers.py) calls these, so that no two libraries' thread pools share a
process. What a library prepares once in its ordinary use (a session, a network) is not timed.
"""

import importlib.util
from collections.abc import Callable

import numpy as np

from benchmarks import networks
from benchmarks.functions import Call, inputs_of
from benchmarks.problems import GLOBAL_POOLS, Problem

Run = Callable[[], np.ndarray]


def installed() -> list[str]:
    """The peers that can be imported here."""
    return [name for name in PEERS if importlib.util.find_spec(MODULES[name])]


def torch(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """PyTorch eager."""
    torch, image, rest = _tensors(p, threads, x, *parameters)
    if p.op in GLOBAL_POOLS:
        pool = getattr(torch.nn.functional, p.op.replace("global", "adaptive") + "2d")
        return _to_numpy(p, lambda: pool(image, 1))
    call = getattr(torch.nn.functional, p.op)
    return _to_numpy(p, lambda: call(image, *rest, *p.arguments))


def onednn(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """PyTorch with weights that oneDNN has put in its own order, as its compiler does."""
    if not p.is_conv:
        raise ValueError("cannot: there are no weights to prepare")
    torch, image, (weight, bias) = _tensors(p, threads, x, *parameters)
    shape, stride, padding, dilation = image.shape, p.stride, p.padding, p.dilation
    if p.op == "conv2d" and not p.nhwc:
        prepared = torch.ops.mkldnn_prepacked.conv2d_prepack(
            weight, bias, stride, padding, dilation, p.groups, shape, "none"
        )
        return _to_numpy(p, lambda: torch.ops.mkldnn_prepacked.conv2d_run(image, prepared))
    # These ops know two and three axes, and their results lie channels last in memory.
    if p.axes == 1:
        image, weight, shape = image[:, :, None], weight[:, :, None], (*shape[:2], 1, shape[2])
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    extra = (0,) * (len(stride) - p.axes) + p.output_padding
    ops = torch.ops.mkldnn
    if p.transposed:
        sizes = padding, extra, stride, dilation, p.groups
        prepared = ops._reorder_convolution_transpose_weight(weight, *sizes, shape)
        run = ops._convolution_transpose_pointwise
    else:
        sizes = padding, stride, dilation, p.groups
        prepared = ops._reorder_convolution_weight(weight, *sizes, shape)
        run = ops._convolution_pointwise

    def call():
        y = run(image, prepared, bias, *sizes, "none", [], "")
        y = y[:, :, 0] if p.axes == 1 else y
        return y if p.nhwc else y.contiguous()

    return _to_numpy(p, call)


def _tensors(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray):
    """torch, the image channels first (if in NHWC, as a view), weight and bias."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    image, *rest = (None if a is None else torch.from_numpy(a) for a in (x, *parameters))
    if p.nhwc:
        image = image.movedim(-1, 1)
        if rest and p.axes == 2:
            rest[0] = rest[0].contiguous(memory_format=torch.channels_last)
    return torch, image, rest


def _to_numpy(p: Problem, call) -> Run:
    if p.nhwc:
        return lambda: call().movedim(1, -1).numpy()
    return lambda: call().numpy()


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
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0]


def openvino(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """The same model, compiled for one request at a time; a new array takes the result."""
    import openvino

    if x.dtype != np.float32:
        raise ValueError("cannot: its CPU plugin computes in float32")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    read = core.read_model(onnx_model(p, x, *parameters))
    read.reshape(x.shape)  # a file may leave sizes open
    model = core.compile_model(read, "CPU", options)
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    shape = tuple(model.output(0).shape)

    def run():
        y = np.empty(shape, np.float32)
        request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
        request.infer(share_outputs=True)
        return y

    return run


def filter2d(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """OpenCV's filter2D: an image and a filter for each output channel."""
    import cv2

    fits = p.plain and p.is_conv and p.groups == p.ic and p.batch == p.sh == p.sw == 1
    if not fits or p.bias or p.kernel != tuple(2 * pad + 1 for pad in p.padding):
        raise ValueError("cannot: it filters planes one by one, with zeros around them")
    cv2.setNumThreads(threads)
    kernels = parameters[0][:, 0]
    sources = np.arange(p.oc) * p.groups // p.oc
    border = cv2.BORDER_CONSTANT

    def run():
        y = np.empty(p.output_shape, x.dtype)
        for plane, source, kernel in zip(y[0], sources, kernels, strict=True):
            cv2.filter2D(x[0, source], -1, kernel, plane, borderType=border)
        return y

    return run


def opencv(p: Problem, threads: int, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """OpenCV's dnn module."""
    import cv2

    cv2.setNumThreads(threads)
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

    if not p.plain:
        raise ValueError("cannot: written for ordinary two-dimensional problems")
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
    """The problem as an ONNX model with one input, x: of one node, or of a whole network."""
    if isinstance(p, networks.Network):
        return p.onnx_model(x.dtype)
    try:
        import onnx
    except ImportError:
        raise ValueError("cannot: the model needs the onnx package") from None

    element = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    constants = {f"p{i}": a for i, a in enumerate(parameters) if a is not None}
    node = onnx.helper.make_node(ONNX_OPS[p.op], ["x", *constants], ["y"], **_attributes(p))
    nodes, shape = [node], p.output_shape
    if p.nhwc:
        first, last = [0, p.axes + 1, *range(1, p.axes + 1)], [0, *range(2, p.axes + 2), 1]
        node.input[0], node.output[0] = "first", "last"
        before = onnx.helper.make_node("Transpose", ["x"], ["first"], perm=first)
        after = onnx.helper.make_node("Transpose", ["last"], ["y"], perm=last)
        nodes, shape = [before, node, after], [shape[i] for i in last]
    graph = onnx.helper.make_graph(
        nodes,
        "problem",
        [onnx.helper.make_tensor_value_info("x", element, x.shape)],
        [onnx.helper.make_tensor_value_info("y", element, shape)],
        [onnx.numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    # Old enough for every peer's reader, new enough for all that is used here.
    opsets = [onnx.helper.make_opsetid("", 13)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _attributes(p: Problem) -> dict:
    """ONNX's words for the sizes of a problem."""
    if p.op in GLOBAL_POOLS:
        return {}
    sizes = {"kernel_shape": p.kernel, "strides": p.stride, "pads": p.padding * 2}
    if p.is_conv:
        sizes |= {"group": p.groups, "dilations": p.dilation}
        return sizes | ({"output_padding": p.output_padding} if p.transposed else {})
    sizes["ceil_mode"] = p.ceil
    return sizes | ({"dilations": p.dilation} if "max" in p.op else {"count_include_pad": 1})


def _plus(y: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return y if bias is None else y + bias[:, None, None]


PEERS = {
    "torch": torch,
    "onednn": onednn,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "filter2d": filter2d,
    "opencv": opencv,
    "scipy": scipy,
}
# Who can run a whole network.
READ_ONNX = ["onnxruntime", "openvino"]
MODULES = {name: name for name in PEERS} | {
    "onednn": "torch",
    "filter2d": "cv2",
    "opencv": "cv2",
}
ONNX_OPS = {"global_avg_pool": "GlobalAveragePool", "global_max_pool": "GlobalMaxPool"}
for _axes in "123":
    ONNX_OPS |= {
        f"conv{_axes}d": "Conv",
        f"conv_transpose{_axes}d": "ConvTranspose",
        f"max_pool{_axes}d": "MaxPool",
        f"avg_pool{_axes}d": "AveragePool",
    }
# A pair of channels is a transform of a plane; 64 x 64 of them take about 0.1 s.
MOST_TRANSFORMS = 64 * 64
