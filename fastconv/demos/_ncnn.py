"""Networks in the format of ncnn: NAME.param says what the layers are, NAME.bin holds their weights.

A .param file is text: a magic number; how many layers and arrays there are; a line for each layer with
its type, its name, how many arrays it takes and gives, their names, and settings as `number=value`,
where -23300-n=count,value,... is setting n with several values. A .bin file has the weights of the
layers in their order. A matrix begins with four bytes that name its type and is padded to a multiple
of four; biases are plain float32. The format is described in ncnn's wiki, "param and model file
structure" and "operation param weight table"; here are the layers that waifu2x needs.

The files are judged as a stranger's: every count is compared with what is there before it is used,
and a setting that would change a result but is not known here is an error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastconv import nn
from fastconv.checkpoints import CheckpointError
from fastconv.nn.initialisation import unfilled

MAGIC = "7767517"
FLOAT32, FLOAT16 = 0, 0x01306B47  # the first four bytes of a matrix
SEVERAL = -23300  # minus n: the number of a setting with several values
FROM_INPUT = -233  # Scale takes its factors from a second input
MOST = 1 << 16  # of a size or a number of channels

Arrays = Sequence[np.ndarray]


def load(param: Path) -> Network:
    """The network of a .param file and the .bin file of the same name beside it, in `eval()` mode.

    It takes (N, C, H, W) float32 and gives the last layer's output. CheckpointError for files that
    are damaged or have layers or settings that are not known, OSError for those that cannot be read.
    """
    try:
        text = param.read_bytes().decode("ascii")
        weights = _Weights(param.with_suffix(".bin").read_bytes())
        network = Network(_lines(text), weights)
        weights.expect_end()
    except (CheckpointError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{param}: {error}") from error
    return network.eval()


class _Line(NamedTuple):
    """A layer as the .param file has it."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: _Settings


class _Settings:
    """The settings of a layer; those that nobody has asked for are not known here."""

    def __init__(self, words: list[str]) -> None:
        self.values = {}
        for word in words:
            key, _, value = word.partition("=")
            key, values = _number(key), [_number(part) for part in value.split(",")]
            if key <= SEVERAL:
                key, count, values = SEVERAL - key, values[0], values[1:]
                if count != len(values):
                    raise CheckpointError(f"{word}: {len(values)} values for {count}")
            elif len(values) > 1:
                raise CheckpointError(f"{word}: several values for one")
            if key in self.values:
                raise CheckpointError(f"setting {key} stands twice")
            self.values[key] = values

    def several(self, key: int) -> list[float]:
        return self.values.pop(key, [])

    def integer(self, key: int, default: int, least: int = 0, most: int = MOST) -> int:
        (value,) = self.values.pop(key, [default]) or [None]
        if type(value) is not int or not least <= value <= most:
            raise CheckpointError(f"setting {key} is {value}, not a number from {least} to {most}")
        return value

    def expect_none(self) -> None:
        if self.values:
            raise CheckpointError(f"settings {sorted(self.values)} are not known")


def _number(word: str) -> int | float:
    try:
        return int(word)
    except ValueError:
        pass
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CheckpointError(f"{word!r} is no number")
    return value


def _lines(text: str) -> Iterator[_Line]:
    """The layers of a .param file."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 3 or lines[0].strip() != MAGIC:
        raise CheckpointError(f"no .param file of ncnn: it begins with {text[:20]!r}")
    if lines[1].split()[:1] != [str(len(lines) - 2)]:
        raise CheckpointError(f"{len(lines) - 2} layers, where line 2 says {lines[1][:40]!r}")
    for number, line in enumerate(lines[2:], 1):
        words = line.split()
        try:
            yield _line(words)
        except CheckpointError as error:
            raise CheckpointError(f"layer {number}, {' '.join(words[:2])}: {error}") from error


def _line(words: list[str]) -> _Line:
    if len(words) < 4 or not all(word.isdecimal() and len(word) < 5 for word in words[2:4]):
        raise CheckpointError("no type, name, number of inputs and of outputs")
    inputs, outputs = (int(word) for word in words[2:4])
    names, settings = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    if len(names) < inputs + outputs or any("=" in name for name in names):
        raise CheckpointError(f"names of {inputs} inputs and {outputs} outputs are missing")
    return _Line(words[0], words[1], names[:inputs], names[inputs:], _Settings(settings))


class _Weights:
    """A .bin file, read from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.position = 0

    def take(self, size: int) -> memoryview:
        left = len(self.data) - self.position
        if size > left:
            raise CheckpointError(f"weights of {size} bytes, of which the .bin file has {left}")
        self.position += size
        return self.data[self.position - size : self.position]

    def vector(self, length: int) -> np.ndarray:
        """`length` float32."""
        return np.frombuffer(self.take(4 * length), "<f4")

    def matrix(self, length: int) -> np.ndarray:
        """`length` float32, which may lie there as float16."""
        (kind,) = struct.unpack("<I", self.take(4))
        if kind == FLOAT32:
            return self.vector(length)
        if kind != FLOAT16:
            raise CheckpointError(f"weights of type {kind:#010x} are not read")
        padded = 2 * length + 2 * length % 4
        return np.frombuffer(self.take(padded)[: 2 * length], "<f2").astype(np.float32)

    def expect_end(self) -> None:
        left = len(self.data) - self.position
        if left:
            raise CheckpointError(f"the .bin file has {left} bytes that belong to no layer")


class Scale(nn.Module):
    """(N, C, H, W) and (N, C) -> (N, C, H, W), every channel times its factor."""

    def forward(self, x: np.ndarray, factors: np.ndarray) -> np.ndarray:
        return x * factors[:, :, None, None]


class Crop(nn.Module):
    """(N, C, H, W) and another -> the part of the first that begins at top, left, as large as the other."""

    def __init__(self, top: int, left: int) -> None:
        super().__init__()
        self.top, self.left = top, left

    def forward(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        rows, columns = other.shape[2:]
        return x[:, :, self.top : self.top + rows, self.left : self.left + columns]


class Sum(nn.Module):
    """Two arrays of one shape -> their sum."""

    def forward(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        return x + other


def _activation(settings: _Settings) -> list[nn.Module]:
    kind, values = settings.integer(9, 0), settings.several(10)
    if kind == 2 and len(values) == 1:
        return [nn.LeakyReLU(values[0])]
    if kind in (0, 1, 4) and not values:
        return {0: [], 1: [nn.ReLU()], 4: [nn.Sigmoid()]}[kind]
    raise CheckpointError(f"activation {kind} with {len(values)} values is not known")


def _convolution(settings: _Settings, weights: _Weights, transposed: bool = False) -> nn.Module:
    """Height follows width where it is not said; the weights are (O, I, kh, kw) in either case."""
    outputs = settings.integer(0, 0, least=1)
    sizes = {}
    for name, key, default, least in (
        ("kernel_size", 1, 0, 1),
        ("dilation", 2, 1, 1),
        ("stride", 3, 1, 1),
        ("padding", 4, 0, 0),
    ):
        width = settings.integer(key, default, least)
        sizes[name] = (settings.integer(key + 10, width, least), width)
    bias, length = settings.integer(5, 0, most=1), settings.integer(6, 0, least=1, most=1 << 30)
    inputs, rest = divmod(length, outputs * math.prod(sizes["kernel_size"]))
    if rest or not 0 < inputs <= MOST:
        raise CheckpointError(f"{length} weights for {outputs} outputs and {sizes['kernel_size']}")
    activation = _activation(settings)
    values = weights.matrix(length).reshape(outputs, inputs, *sizes["kernel_size"])
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(inputs, outputs, bias=bool(bias), **sizes)
    layer.weight = values.swapaxes(0, 1) if transposed else values
    if bias:
        layer.bias = weights.vector(outputs)
    return nn.Sequential(layer, *activation)


def _deconvolution(settings: _Settings, weights: _Weights) -> nn.Module:
    return _convolution(settings, weights, transposed=True)


def _inner_product(settings: _Settings, weights: _Weights) -> nn.Module:
    outputs = settings.integer(0, 0, least=1)
    bias, length = settings.integer(1, 0, most=1), settings.integer(2, 0, least=1, most=1 << 30)
    inputs, rest = divmod(length, outputs)
    if rest or not inputs:
        raise CheckpointError(f"{length} weights for {outputs} outputs")
    activation = _activation(settings)
    values = weights.matrix(length).reshape(outputs, inputs)
    layer = nn.Linear(inputs, outputs, bias=bool(bias))
    layer.weight = values
    if bias:
        layer.bias = weights.vector(outputs)
    return nn.Sequential(nn.Flatten(), layer, *activation)


def _pooling(settings: _Settings, weights: _Weights) -> nn.Module:
    average, whole = settings.integer(0, 0) == 1, settings.integer(4, 0) == 1
    if not (average and whole):
        raise CheckpointError("of poolings only the mean of the whole image is known")
    return nn.AdaptiveAvgPool2d(1)


def _scale(settings: _Settings, weights: _Weights) -> nn.Module:
    settings.integer(0, 0, FROM_INPUT, FROM_INPUT)
    return Scale()


def _crop(settings: _Settings, weights: _Weights) -> nn.Module:
    left, top = settings.integer(0, 0), settings.integer(1, 0)
    return Crop(top, left)


def _sum(settings: _Settings, weights: _Weights) -> nn.Module:
    settings.integer(0, 0, 1, 1)  # 0 would be the product, 2 the maximum
    return Sum()


def _split(settings: _Settings, weights: _Weights) -> nn.Module:
    return nn.Identity()


class _Kind(NamedTuple):
    """How to make a layer of a type, and how many arrays it takes."""

    make: Callable[[_Settings, _Weights], nn.Module]
    inputs: int


KINDS = {
    "Convolution": _Kind(_convolution, 1),
    "Crop": _Kind(_crop, 2),
    "Deconvolution": _Kind(_deconvolution, 1),
    "Eltwise": _Kind(_sum, 2),
    "InnerProduct": _Kind(_inner_product, 1),
    "Pooling": _Kind(_pooling, 1),
    "Scale": _Kind(_scale, 2),
    "Split": _Kind(_split, 1),
}


class _Step(NamedTuple):
    """A layer of `layers` at work. `done` are arrays that no later step takes: they are let go."""

    layer: str
    inputs: list[str]
    outputs: list[str]
    done: list[str]


class Network(nn.Module):
    """The layers of a .param file, carried out in its order; they are in `layers`, by their names."""

    def __init__(self, lines: Iterator[_Line], weights: _Weights) -> None:
        super().__init__()
        self.layers = nn.Module()
        self.steps, known = [], set()
        for line in lines:
            where = f"{line.kind} {line.name}"
            try:
                self._add(line, known, weights)
                line.settings.expect_none()
            except (CheckpointError, ValueError, TypeError) as error:
                raise CheckpointError(f"{where}: {error}") from error
        if not self.steps:
            raise CheckpointError("no layers")
        self.result = self.steps[-1].outputs[0]
        needed = {self.result}
        for step in reversed(self.steps):
            step.done.extend({*step.inputs, *step.outputs} - needed)
            needed.update(step.inputs)

    def _add(self, line: _Line, known: set[str], weights: _Weights) -> None:
        unknown = [name for name in line.inputs if name not in known]
        repeated = [name for name in line.outputs if name in known]
        if unknown or repeated or len(set(line.outputs)) < len(line.outputs):
            raise CheckpointError(f"arrays that are not there {unknown}, or twice {repeated}")
        if line.kind == "Input":
            if known or line.inputs or len(line.outputs) != 1:
                raise CheckpointError("one input with one output is the first layer of a network")
            (self.input,) = line.outputs
            for key in (0, 1, 2):  # width, height, channels: a proposal
                line.settings.integer(key, 0)
        else:
            kind = KINDS.get(line.kind)
            if kind is None:
                raise CheckpointError(f"layers of this type are not known; {', '.join(KINDS)} are")
            if len(line.inputs) != kind.inputs or not line.outputs:
                raise CheckpointError(f"{len(line.inputs)} inputs, where it takes {kind.inputs}")
            if len(line.outputs) > 1 and line.kind != "Split":
                raise CheckpointError(f"{len(line.outputs)} outputs, where it gives one")
            with unfilled():
                layer = kind.make(line.settings, weights)
            if hasattr(self.layers, line.name):
                raise CheckpointError("the name is taken")
            self.layers.add_module(line.name, layer)
            self.steps.append(_Step(line.name, line.inputs, line.outputs, []))
        known.update(line.outputs)

    def forward(self, x: np.ndarray) -> np.ndarray:
        values = {self.input: x}
        for step in self.steps:
            layer = getattr(self.layers, step.layer)
            result = layer(*(values[name] for name in step.inputs))
            values.update(dict.fromkeys(step.outputs, result))
            for name in step.done:
                del values[name]
        return values[self.result]
