"""One typical call of every public op, for --benchmark-full; a test asks for every op's row."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.files import File
from benchmarks.networks import Network
from benchmarks.problems import DTYPES, Problem
from fastconv import reference

Normal = Callable[..., np.ndarray]

# Shapes of about a million elements; the first axis is the batch, the second the channels.
IMAGES = {1: (8, 64, 2048), 2: (4, 64, 64, 64), 3: (1, 16, 32, 48, 48)}


@dataclasses.dataclass(frozen=True)
class Call:
    """`arguments(normal)` gives the positional arguments; normal(*shape) a seeded random array.

    terms is how many inputs meet in one output; 0 says that values are moved or compared and so
    must be equal to the reference's.
    """

    op: str
    terms: int
    arguments: Callable[[Normal], tuple]
    options: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    moves: bool = True  # False: the result is a view or the input itself

    def __str__(self) -> str:
        return self.op

    @property
    def is_conv(self) -> bool:
        return self.op.startswith("conv") or self.op == "linear"

    @property
    def flops(self) -> int:
        """Every weight meets every pixel: of the output, or of a transposed convolution's input."""
        if not self.is_conv:
            return 0
        x, weight, *_ = inputs_of(self.op, "f32")
        pixels = x.shape if "transpose" in self.op else self.output_shape
        return 2 * weight.size * math.prod(pixels) // pixels[1]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return reference_of(self.op, "f32").shape

    def nbytes(self, dtype: str) -> int:
        """Every input read once and every output written once."""
        if not self.moves:
            return 0
        everything = *inputs_of(self.op, dtype), reference_of(self.op, dtype)
        return sum(a.nbytes for a in everything if isinstance(a, np.ndarray))

    def run(self, library, dtype: str) -> Callable[[], np.ndarray]:
        """The call of a library that has the op under its name, the result without indices."""
        function, inputs = getattr(library, self.op), inputs_of(self.op, dtype)
        return lambda: function(*inputs, **self.options)


@functools.lru_cache(maxsize=2)
def inputs_of(op: str, dtype: str) -> tuple:
    """The positional arguments, seeded by the op's name."""
    rng = np.random.default_rng(zlib.crc32(f"{op}-{dtype}".encode()))
    return CALLS[op].arguments(lambda *shape: rng.standard_normal(shape, DTYPES[dtype]))


@functools.lru_cache(maxsize=2)
def reference_of(op: str, dtype: str) -> np.ndarray:
    """The right result of the call."""
    return CALLS[op].run(reference, dtype)()


def _of_every_dimension() -> Iterator[Call]:
    for d, image in IMAGES.items():
        kernel, taps = (3,) * d, 3**d
        ic = image[1]
        half = tuple(size // 2 for size in image[2:])
        rows = {
            f"conv{d}d": (ic * taps, lambda n, s=image, k=kernel: (n(*s), n(s[1], s[1], *k))),
            f"conv_transpose{d}d": (
                ic * taps,
                lambda n, s=image, k=kernel: (n(*s), n(s[1], s[1], *k), None, 2),
            ),
            f"max_pool{d}d": (0, lambda n, s=image: (n(*s), 3, 2, 1)),
            f"avg_pool{d}d": (taps, lambda n, s=image: (n(*s), 3, 2, 1)),
            f"lp_pool{d}d": (taps, lambda n, s=image: (n(*s), 2, 3, 2)),
            f"adaptive_avg_pool{d}d": (7**d, lambda n, s=image, d=d: (n(*s), (7,) * d)),
            f"adaptive_max_pool{d}d": (0, lambda n, s=image, d=d: (n(*s), (7,) * d)),
            f"max_unpool{d}d": (0, lambda n, s=(*image[:2], *half): (n(*s), _indices(s), 2)),
        }
        for op, (terms, arguments) in rows.items():
            yield Call(op, terms, arguments)


def _indices(shape: tuple[int, ...]) -> np.ndarray:
    """For max_unpool with windows of 2: the first element of every window."""
    size = shape[2:]
    grid = np.meshgrid(*[2 * np.arange(n) for n in size], indexing="ij")
    return np.broadcast_to(np.ravel_multi_index(grid, [2 * n for n in size]), shape).copy()


def _of_images() -> Iterator[Call]:
    image = IMAGES[2]
    batch, c, h, w = image
    elementwise = "relu relu6 leaky_relu elu silu gelu sigmoid tanh hardsigmoid hardswish softplus"
    for op in elementwise.split():
        yield Call(op, 1, lambda n: (n(*image),))
    rows = {
        "prelu": (1, lambda n: (n(*image), n(c))),
        "global_avg_pool": (h * w, lambda n: (n(*image),)),
        "global_max_pool": (0, lambda n: (n(*image),)),
        "pad": (0, lambda n: (n(*image), (1, 1, 1, 1), "reflect")),
        "pixel_shuffle": (0, lambda n: (n(*image), 2)),
        "pixel_unshuffle": (0, lambda n: (n(*image), 2)),
        "channel_shuffle": (0, lambda n: (n(*image), 4)),
        "unfold": (0, lambda n: (n(*image), 3, 1, 1)),
        "fold": (9, lambda n: (n(batch, c * 9, h * w), (h, w), 3, 1, 1)),
        "linear": (1024, lambda n: (n(64, 1024), n(1024, 1024), n(1024))),
        "batch_norm": (1, lambda n: (n(*image), n(c), np.abs(n(c)) + 1, n(c), n(c))),
        "instance_norm": (h * w, lambda n: (n(*image),)),
        "group_norm": (c // 4 * h * w, lambda n: (n(*image), 4, n(c), n(c))),
        "layer_norm": (h * w, lambda n: (n(*image), (h, w), n(h, w), n(h, w))),
        "local_response_norm": (5, lambda n: (n(*image), 5)),
        "softmax": (c, lambda n: (n(*image), 1)),
        "log_softmax": (c, lambda n: (n(*image), 1)),
        "from_keras_depthwise": (0, lambda n: (n(3, 3, 512, 2),)),
    }
    for op, (terms, arguments) in rows.items():
        yield Call(op, terms, arguments)
    yield Call("dropout", 0, lambda n: (n(*image), 0.5, False), moves=False)
    yield Call("from_hwio", 0, lambda n: (n(3, 3, 512, 512),), moves=False)
    bilinear = {"scale_factor": 2, "mode": "bilinear", "align_corners": False}
    yield Call("interpolate", 4, lambda n: (n(*image),), bilinear)


CALLS = {call.op: call for call in [*_of_every_dimension(), *_of_images()]}


def parse(name: str) -> Problem | Network | Call:
    """A problem or a network by its name; a call's is its op."""
    return CALLS.get(name) or Network.parse(name) or File.parse(name) or Problem.parse(name)
