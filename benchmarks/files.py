"""ONNX files of other packages, run as they are: in the place of a network of ours."""

import dataclasses
import functools
import importlib.util
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastconv.onnx
from benchmarks.networks import Network, Run
from fastconv.nn.graph import record
from fastconv.nn.summary import multiply_adds
from fastconv.onnx.model import load
from fastconv.onnx.network import Network as Nodes

# Height and width of the images. The OCR models take any: a page, a line of text, a turned line.
_LIGHT, _OCR = ("onnx", "backend/test/data/light/light_"), ("rapidocr", "models/")
FILES = {
    **{
        name: (*_LIGHT, name, 224, 224)
        for name in (
            "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
            "squeezenet", "vgg19", "zfnet512",
        )
    },
    "ocr_detection": (*_OCR, "PP-OCRv6_det_small", 640, 640),
    "ocr_recognition": (*_OCR, "PP-OCRv6_rec_small", 48, 320),
    "ocr_classifier": (*_OCR, "ch_ppocr_mobile_v2.0_cls_mobile", 48, 192),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class File(Network):
    """One file at batch 1. Its name is `resnet50:onnx_ih224_iw224`."""

    iw: int

    @classmethod
    def parse(cls, name: str) -> "File | None":
        """The file of a name, None where it is the name of something else."""
        found = re.fullmatch(r"(\w+):onnx_ih(\d+)_iw(\d+)", name)
        return found and cls(found[1], int(found[2]), int(found[3]))

    @property
    def shape(self) -> str:
        return f"onnx_ih{self.ih}_iw{self.iw}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1, 3, self.ih, self.iw

    def facts(self) -> tuple[tuple[int, ...], int, int]:
        return _facts(self)

    def onnx_model(self, dtype: np.dtype) -> bytes:
        """ValueError: of another type than the file."""
        if dtype != np.float32:
            raise ValueError("cannot: the file is of float32")
        return _bytes(self)


def all_files() -> list[File]:
    """Those of packages that are installed."""
    return [File(name, *row[3:]) for name, row in FILES.items() if _path(name)]


def _path(name: str) -> Path | None:
    package, folder, stem, *_ = FILES[name]
    found = importlib.util.find_spec(package)
    return found and Path(found.submodule_search_locations[0], f"{folder}{stem}.onnx")


def _bytes(file: File) -> bytes:
    """Weights that the file makes, all of one number, become random ones that keep variances."""
    import onnx

    model = onnx.load(_path(file.label))
    graph, rng = model.graph, np.random.default_rng(zlib.crc32(file.label.encode()))
    shapes = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    made = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    roles = dict(_roles(graph))
    for node in made:
        shape, name = shapes[node.input[0]], node.output[0]
        values = _drawn(rng, roles.get(name, ""), tuple(shape)).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        graph.node.remove(node)
    inputs = {node.input[0] for node in made}
    for several in (graph.input, graph.initializer):
        for each in [each for each in several if each.name in inputs]:
            several.remove(each)
    return model.SerializeToString()


def _roles(graph) -> Iterator[tuple[str, str]]:
    """What factors of normalisation are, by the name of their weights."""
    users = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            yield node.input[1], "factor"
            yield node.input[4], "variance"
        elif node.op_type == "Unsqueeze" and users[node.output[0]].op_type == "Mul":
            yield node.input[0], "factor"


def _drawn(rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
    if role:
        return rng.uniform(0.5, 1.5, shape) if role == "variance" else rng.uniform(0.9, 1.1, shape)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 200
    return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))


@functools.cache
def _facts(file: File) -> tuple[tuple[int, ...], int, int]:
    """Output shape, multiply-adds of convolutions and products of matrices, parameters."""
    model = load(_bytes(file))
    graph = record(Nodes(model), file.input_shape)
    products = [node for node in graph.nodes if node.kind == "matmul"]
    macs = sum(map(multiply_adds, graph.nodes))
    macs += sum(math.prod(node.shape) * node.inputs[0].shape[-1] for node in products)
    made = [node.attributes.get("value") for node in model.nodes if node.op == "Constant"]
    weights = [*model.constants.values(), *(array for array in made if array is not None)]
    return graph.outputs[0].shape, macs, sum(array.size for array in weights)


def prepared(file: File, dtype: str) -> Run:
    """A session, as one uses it."""
    session, x = fastconv.onnx.InferenceSession(_bytes(file)), file.image(dtype)
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0]


def as_built(file: File, dtype: str) -> Run:
    """Node after node."""
    network, x = Nodes(load(_bytes(file))), file.image(dtype)
    return lambda: network(x)[0]


OURS = {"layer": prepared, "function": as_built}
