"""Whole networks of fastconv.models with random weights: by name, as calls of ours, as ONNX models."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable

import numpy as np

from benchmarks import export
from benchmarks.problems import DTYPES
from fastconv import models, nn
from fastconv.nn.summary import Summary

Run = Callable[[], np.ndarray]
# Inputs are (1, 3, size, size), as the papers have them; U-Net's keeps its size.
SIZES = {
    "alexnet": 224,
    "vgg16": 224,
    "googlenet": 224,
    "inception_v4": 299,
    "resnet50": 224,
    "resnext50_32x4d": 224,
    "mobilenet_v2": 224,
    "shufflenet_v2": 224,
    "xception": 299,
    "densenet121": 224,
    "squeezenet": 224,
    "unet": 256,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """One network at batch 1, in the place of a problem. Its name is `resnet50:network_ih224`."""

    label: str
    ih: int

    @classmethod
    def parse(cls, name: str) -> "Network | None":
        """The network of a name, None where it is the name of something else."""
        label, found, size = name.partition(":network_ih")
        return cls(label, int(size)) if found else None

    def __str__(self) -> str:
        return f"{self.label}:{self.shape}"

    @property
    def shape(self) -> str:
        """The name without its label."""
        return f"network_ih{self.ih}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1, 3, self.ih, self.ih

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.facts()[0]

    @property
    def macs(self) -> int:
        """Multiply-adds of its convolutions and linear layers."""
        return self.facts()[1]

    @property
    def flops(self) -> int:
        """Two operations a product."""
        return 2 * self.macs

    def nbytes(self, dtype: str) -> int:
        """Weights and image read once, the result written once; what lies between is not counted."""
        elements = self.facts()[2] + math.prod(self.input_shape) + math.prod(self.output_shape)
        return elements * np.dtype(DTYPES[dtype]).itemsize

    def facts(self) -> tuple[tuple[int, ...], int, int]:
        """Output shape, multiply-adds, parameters."""
        return _facts(self)

    def onnx_model(self, dtype: np.dtype) -> bytes:
        """The same network for other libraries."""
        model = self.model("f64" if dtype == np.float64 else "f32")
        return export.onnx_model(model, self.input_shape, dtype)

    def image(self, dtype: str) -> np.ndarray:
        """Seeded by the name."""
        return _numbers(self, dtype).standard_normal(self.input_shape, DTYPES[dtype])

    def model(self, dtype: str) -> nn.Module:
        """With parameters drawn by the name; those of normalisation too, or folding would be free."""
        nn.manual_seed(zlib.crc32(self.label.encode()))
        model = getattr(models, self.label)(dtype=DTYPES[dtype])
        rng = _numbers(self, dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                shape = module.running_mean.shape
                module.running_mean = rng.uniform(-0.1, 0.1, shape).astype(DTYPES[dtype])
                module.running_var = rng.uniform(0.1, 0.3, shape).astype(DTYPES[dtype])
        return model


def all_networks() -> list[Network]:
    return [Network(name, size) for name, size in SIZES.items()]


@functools.cache
def _facts(network: Network) -> tuple[tuple[int, ...], int, int]:
    summary = Summary(network.model("f32"), network.input_shape)
    return summary.rows[-1].output_shape, summary.multiply_adds, summary.parameters


def _numbers(network: Network, dtype: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{network}-{dtype}".encode()))


def prepared(network: Network, dtype: str) -> Run:
    """`model.prepare`: folded, fused, planned."""
    model, x = network.model(dtype), network.image(dtype)
    run = model.prepare(x.shape)
    return lambda: run(x)


def as_built(network: Network, dtype: str) -> Run:
    """The network called as it was built: layer after layer, their weights packed."""
    model, x = network.model(dtype), network.image(dtype)
    return lambda: model(x)


OURS = {"layer": prepared, "function": as_built}
