"""What part of its input an element of a network's output depends on.

Along one axis the output at o sees an interval of the input. Convolution and pooling make it wider,
padding moves it, a stride makes it advance faster with o, and where paths meet it is the smallest
interval that holds those of all paths. After an up-sampling neighbours differ, so the interval is
kept for each of the `period` positions after which the pattern repeats. Araujo, Norris and Sim,
"Computing Receptive Fields of Convolutional Neural Networks" (2019), have the case of period one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fastconv.nn._sizes import per_axis
from fastconv.nn.graph import Graph, Node, Recorder
from fastconv.nn.module import Module

Ends = tuple[float, float]  # first and last of an interval; the last is smaller if there is none
NONE, ALL = (math.inf, -math.inf), (-math.inf, math.inf)


class _Axis(NamedTuple):
    """Position q * period + r sees the input between the two `ends[r]`, each plus q * advance.

    `here` are the intervals of the positions that the recorded image has. They are smaller at its
    borders, where those further in would see what padding has in its place.
    """

    ends: tuple[Ends, ...]
    advance: int
    here: tuple[Ends, ...]

    @property
    def period(self) -> int:
        return len(self.ends)

    def interval(self, position: int) -> Ends:
        turns, rest = divmod(position, self.period)
        first, last = self.ends[rest]
        return first + turns * self.advance, last + turns * self.advance


def _identity(length: int) -> _Axis:
    return _Axis(((0, 0),), 1, tuple((i, i) for i in range(length)))


def _whole(length: int) -> _Axis:
    return _Axis((ALL,), 0, (ALL,) * length)


def _hull(ends: Iterable[Ends]) -> Ends:
    """The smallest interval that holds all."""
    low, high = NONE
    for first, last in ends:
        low, high = min(low, first), max(high, last)
    return low, high


class ReceptiveField:
    """Output o sees the inputs from o * stride + offset on, `size` of them, along every axis.

    size: of the smallest box that holds everything an output depends on, padding included; inf
        where that is the whole input. A tuple where the axes differ.
    stride: how far the box moves from one output to the next; 0 where it is the whole input.
    offset: the first input that the first output sees; negative where padding comes before it.
    layers: the fields of all layers by name, in the order they are used.
    """

    def __init__(
        self, axes: Iterable[_Axis], layers: dict[str, ReceptiveField] | None = None
    ) -> None:
        self._axes = tuple(axes)
        self.layers = {} if layers is None else layers

    @property
    def size(self) -> float | tuple[float, ...]:
        return _one_if_equal(
            max(last - first + 1 for first, last in axis.ends) for axis in self._axes
        )

    @property
    def stride(self) -> Fraction | int | tuple[Fraction | int, ...]:
        strides = [Fraction(axis.advance, axis.period) for axis in self._axes]
        return _one_if_equal(int(s) if s.denominator == 1 else s for s in strides)

    @property
    def offset(self) -> float | tuple[float, ...]:
        return _one_if_equal(axis.ends[0][0] for axis in self._axes)

    @property
    def whole(self) -> bool:
        """Whether every output sees the whole input."""
        return all(axis.ends == (ALL,) for axis in self._axes)

    @property
    def local(self) -> ReceptiveField:
        """The largest field of a layer that does not see everything: that before global pooling."""
        fields = [field for field in [self, *reversed(self.layers.values())] if not field.whole]
        return max(fields, key=lambda field: math.prod(np.ravel(field.size).tolist()), default=self)

    def inputs(self, output: Sequence[int]) -> tuple[Ends, ...]:
        """(first, last) input along each axis that the output at a position sees, padding included."""
        return tuple(axis.interval(o) for axis, o in zip(self._axes, output, strict=True))

    def outputs(self, pixel: Sequence[int]) -> np.ndarray:
        """Which outputs see an input pixel, as an array of bool; of an image of the `input_shape`."""
        seen = np.ones((), bool)
        for axis, where in zip(self._axes, pixel, strict=True):
            along = np.array([first <= where <= last for first, last in axis.here], bool)
            seen = np.logical_and.outer(seen, along)
        return seen

    def __repr__(self) -> str:
        if self.whole:
            return "ReceptiveField(the whole input)"
        return f"ReceptiveField(size={self.size}, stride={self.stride}, offset={self.offset})"


def receptive_field(model: Module, input_shape: tuple[int, ...] | None = None) -> ReceptiveField:
    """Size, stride and offset of what an element of the output of `model` depends on.

    `input_shape`, with or without the batch, is needed only where it decides what is computed, as
    in adaptive pooling, or where none can be guessed. Padding never changes the size; branches count
    with the largest path; after global pooling or flattening it is the whole input. ValueError where
    the model does something that has no rule, or several outputs.
    """
    *shapes, last = shapes_to_try(model, input_shape)
    for shape in shapes:
        try:
            return _of_shape(model, shape)
        except ValueError:
            pass  # too small an image, perhaps
    return _of_shape(model, last)


def _of_shape(model: Module, shape: tuple[int, ...]) -> ReceptiveField:
    recorder = Recorder(model)
    try:
        output = recorder.run(shape).outputs
        fields = fields_of(recorder.graph)
    except ValueError:
        # It may be a linear layer that wants another image; it would see all of that too.
        fields = fields_of(recorder.graph)
        output = recorder.graph.nodes[-1]
        if fields[output] is None or not fields[output].whole:
            raise
    if not isinstance(output, Node):
        raise ValueError(f"receptive_field: {type(model).__name__} returns no single array")
    if fields[output] is None:
        stranger = next(node for node in fields if fields[node] is None)
        raise ValueError(f"receptive_field: no rule for {stranger.kind} in {stranger.name!r}")
    layers = {node.name: field for node, field in fields.items() if node.layer and field}
    return ReceptiveField(fields[output]._axes, layers)


def shapes_to_try(
    model: Module, input_shape: tuple[int, ...] | None = None
) -> list[tuple[int, ...]]:
    """The given shape, with a batch axis if it lacks one; without one, shapes that may suit."""
    names = (base.__name__ for m in model.modules() for base in type(m).__mro__)
    rank = next((int(n[-2]) for n in names if n[-1:] == "d" and n[-2:-1].isdigit()), 0)
    if input_shape is not None:
        shape = tuple(input_shape)
        return [(1, *shape) if rank and len(shape) == rank + 1 else shape]
    channels = next((m.in_channels for m in model.modules() if hasattr(m, "in_channels")), 1)
    if hasattr(model, "image_size"):
        return [(1, channels, *model.image_size)]
    sizes = (16, 64) if rank == 3 else (64, 256, 1024)
    return [(1, channels, *[size] * (rank or 2)) for size in sizes]


def fields_of(graph: Graph) -> dict[Node, ReceptiveField | None]:
    """The field of every node; None where a step has no rule, and for what depends on it."""
    fields = {}
    for node in graph.nodes:
        before = [fields[source] for source in node.inputs]
        if node.kind == "input":
            fields[node] = ReceptiveField(map(_identity, node.shape[2:]))
        elif None in before or not before:
            fields[node] = None
        elif all(field.whole for field in before):
            fields[node] = ReceptiveField(_all(node, [field._axes for field in before]))
        else:
            axes = _rule_of(node)(node, [field._axes for field in before])
            fields[node] = None if axes is None else ReceptiveField(axes)
    return fields


def _one_if_equal(values: Iterable) -> Any:
    values = tuple(values)
    return values[0] if len(set(values)) == 1 else values


# What happens to one axis -------------------------------------------------------------------------


Sees = Callable[[int], Iterable[int]]  # the positions before a layer that an output uses


def _through(axis: _Axis, sees: Sees, period: int, step: int, length: int) -> _Axis:
    """The axis behind a layer of `length` outputs; output o + period uses what o uses, plus `step`."""
    turns = axis.period // math.gcd(axis.period, step)
    ends = tuple(_hull(map(axis.interval, sees(o))) for o in range(period * turns))
    size = len(axis.here)
    here = tuple(_hull(axis.here[i] for i in sees(o) if 0 <= i < size) for o in range(length))
    return _shortened(_Axis(ends, axis.advance * (step * turns // axis.period), here))


def _shortened(axis: _Axis) -> _Axis:
    """The same with the shortest period."""
    for period in range(1, axis.period):
        if axis.period % period == 0 and axis.advance * period % axis.period == 0:
            advance = axis.advance * period // axis.period
            short = _Axis(axis.ends[:period], advance, axis.here)
            if all(short.interval(o) == axis.interval(o) for o in range(axis.period)):
                return short
    return axis


def _joined(axes: Sequence[_Axis]) -> _Axis:
    """The smallest intervals that hold those of all axes."""
    if all(axis == axes[0] for axis in axes):
        return axes[0]
    if len({Fraction(axis.advance, axis.period) for axis in axes}) > 1:
        return _whole(len(axes[0].here))
    period = math.lcm(*(axis.period for axis in axes))
    ends = tuple(_hull(axis.interval(o) for axis in axes) for o in range(period))
    here = tuple(map(_hull, zip(*(axis.here for axis in axes), strict=True)))
    return _Axis(ends, axes[0].advance * (period // axes[0].period), here)


# What happens to all axes: rules take a node and the axes of its inputs ---------------------------

Axes = tuple[_Axis, ...]


def _union(node: Node, before: list[Axes]) -> Iterable[_Axis]:
    """Elementwise: every path counts. One value for a whole image counts as all of it."""
    rank = len(before[0])
    for source, axes in zip(node.inputs, before, strict=True):
        if len(axes) != rank or _space(source, rank) != _space(node, rank):
            return _all(node, before)
    return map(_joined, zip(*before, strict=True))


def _space(node: Node, rank: int) -> tuple[int, ...]:
    """The sizes of the last axes of a node's result, those of space."""
    return node.shape[len(node.shape) - rank :]


def _same(node: Node, before: list[Axes]) -> Axes:
    return before[0]


def _all(node: Node, before: list[Axes]) -> list[_Axis]:
    rank = len(before[0])
    sizes = node.shape[2:] if node.shape else ()
    return [_whole(length) for length in (*sizes, *[1] * rank)[:rank]]


def _sizes(node: Node, name: str, default: Any, rank: int) -> tuple:
    value = node.setting(name)
    return per_axis(node.kind, name, default if value is None else value, rank)


def _kernel(node: Node, rank: int) -> tuple[int, ...]:
    weight = node.setting("weight")
    return _sizes(node, "kernel_size", None if weight is None else np.shape(weight)[2:], rank)


def _window(node: Node, before: list[Axes]) -> Iterator[_Axis]:
    """Convolution and pooling: o sees o * stride - padding and every further `dilation` of the kernel."""
    rank = len(before[0])
    kernel = _kernel(node, rank)
    strides = _sizes(node, "stride", kernel if "pool" in node.kind else 1, rank)
    dilations = _sizes(node, "dilation", 1, rank)
    starts = _starts(node, kernel, strides, dilations)
    sizes = _space(node, rank)
    for axis, k, s, d, p, out in zip(
        before[0], kernel, strides, dilations, starts, sizes, strict=True
    ):
        if k == s == 1 and p == 0:
            yield axis
            continue
        taps = range(-p, d * k - p, d)
        yield _through(axis, lambda o, s=s, taps=taps: [o * s + t for t in taps], 1, s, out)


def _starts(node: Node, kernel: tuple, strides: tuple, dilations: tuple) -> list[int]:
    """How much padding comes before the image."""
    rank, padding = len(kernel), node.setting("padding", 0)
    padding = 0 if padding == "valid" else padding
    if not isinstance(padding, str):
        pairs = per_axis(node.kind, "padding", padding, rank)
        return [pair if isinstance(pair, int) else pair[0] for pair in pairs]
    starts = []
    for size, k, s, d in zip(_space(node.inputs[0], rank), kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        starts.append(total // 2 if padding == "same" else total - total // 2)
    return starts


def _transposed_window(node: Node, before: list[Axes]) -> Iterator[_Axis]:
    """o sees the i with o = i * stride - padding + dilation * (a tap of the kernel)."""
    rank = len(before[0])
    settings = [
        _sizes(node, *row, rank) for row in (("stride", 1), ("dilation", 1), ("padding", 0))
    ]
    for axis, k, s, d, p, length in zip(
        before[0], _kernel(node, rank), *settings, _space(node, rank), strict=True
    ):

        def sees(o: int, k: int = k, s: int = s, d: int = d, p: int = p) -> list[int]:
            return [(o + p - t * d) // s for t in range(k) if (o + p - t * d) % s == 0]

        yield _through(axis, sees, s, 1, length)


def _adaptive_window(node: Node, before: list[Axes]) -> Iterator[_Axis]:
    """o sees floor(o * L / OL) to ceil((o + 1) * L / OL); where OL is one, that is the whole input."""
    rank = len(before[0])
    sizes = _space(node.inputs[0], rank), _space(node, rank)
    for axis, length, out in zip(before[0], *sizes, strict=True):

        def sees(o: int, length: int = length, out: int = out) -> range:
            return range(o * length // out, -(-(o + 1) * length // out))

        yield _whole(1) if out == 1 else _through(axis, sees, out, length, out)


def _resized(node: Node, before: list[Axes]) -> Iterator[_Axis]:
    """Interpolation: o lies at o * step + shift, and of the pixels around it those count that weigh."""
    rank, mode = len(before[0]), node.setting("mode")
    if mode == "area":
        yield from _adaptive_window(node, before)
        return
    low, high = {"nearest": (0, 0), "nearest-exact": (0, 0), "bicubic": (-1, 2)}.get(mode, (0, 1))
    sizes = _space(node.inputs[0], rank), _space(node, rank)
    for axis, length, out in zip(before[0], *sizes, strict=True):
        step, shift = Fraction(length, out), Fraction(0)
        if node.setting("align_corners"):
            step = Fraction(length - 1, max(out - 1, 1))
        elif mode != "nearest":
            shift = step / 2 if mode == "nearest-exact" else (step - 1) / 2

        def sees(o: int, step: Fraction = step, shift: Fraction = shift) -> range:
            place = o * step + shift
            left = math.floor(place)
            return range(left, left + 1) if place == left else range(left + low, left + high + 1)

        yield _through(axis, sees, step.denominator, step.numerator, out) if step else _whole(out)


def _padded(node: Node, before: list[Axes]) -> Iterator[_Axis]:
    """pad and the padding layers count from the last axis: before, after, before, after.

    What padding repeats of the image counts as padding.
    """
    rank, layer = len(before[0]), node.layer
    sides = node.setting("pad") if layer is None else layer.padding
    starts = ([0] * rank + [*sides[-2::-2]])[-rank:]
    for axis, start, length in zip(before[0], starts, _space(node, rank), strict=True):
        yield _through(axis, lambda o, start=start: [o - start], 1, 1, length)


def _shuffled(node: Node, before: list[Axes]) -> Iterator[_Axis]:
    """Pixel shuffle makes r outputs of each position, its inverse one output of r positions."""
    for axis, length in zip(before[0], _space(node, len(before[0])), strict=True):
        if node.kind == "pixel_shuffle":
            r = node.setting("upscale_factor")
            yield _through(axis, lambda o, r=r: [o // r], r, 1, length)
        else:
            r = node.setting("downscale_factor")
            yield _through(axis, lambda o, r=r: range(o * r, o * r + r), 1, r, length)


def _reshaped(node: Node, before: list[Axes]) -> Axes | list[_Axis]:
    """Nothing where space stays as it is, or is a single position; else flattening, which mixes all."""
    rank = len(before[0])
    space = _space(node.inputs[0], rank)
    same = len(node.shape) > rank and _space(node, rank) == space
    return before[0] if same or math.prod(space) == 1 else _all(node, before)


def _exchanged(node: Node, before: list[Axes]) -> Axes | None:
    """transpose and swapaxes, as long as the axes of space stay the last ones, in their order."""
    rank, dims = len(before[0]), len(node.inputs[0].shape)
    numbered = np.empty(range(1, dims + 1), np.int8)  # so that shapes say where each axis went
    order = node.function(numbered, *node.args[1:], **node.kwargs).shape
    return before[0] if order[dims - rank :] == numbered.shape[dims - rank :] else None


def _reduced(node: Node, before: list[Axes]) -> Axes | list[_Axis] | None:
    """mean, sum, max and the like: over all axes of space, or over none of them."""
    rank, dims = len(before[0]), len(node.inputs[0].shape)
    axis = node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else None)
    over = {a % dims for a in (range(dims) if axis is None else np.ravel(axis).tolist())}
    space = set(range(dims - rank, dims))
    if space <= over:
        return _all(node, before)
    return None if space & over else before[0]


def _cut(node: Node, before: list[Axes]) -> Iterable[_Axis]:
    """Indexing: slices of space move and thin out, anything else there mixes all."""
    rank, dims = len(before[0]), len(node.inputs[0].shape)
    key = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if not all(k is Ellipsis or isinstance(k, (int, slice)) for k in key):
        return _all(node, before)
    rest = [slice(None)] * (dims - sum(k is not Ellipsis for k in key))
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    key = [*key[:at], *rest, *key[at + 1 :]][dims - rank :]
    if not all(isinstance(k, slice) for k in key):
        return _all(node, before)
    return map(_sliced, before[0], key)


def _sliced(axis: _Axis, part: slice) -> _Axis:
    there = range(len(axis.here))[part]
    start, step = there.start, there.step
    return _through(axis, lambda o: [start + o * step], 1, step, len(there))


def _stacked(node: Node, before: list[Axes]) -> Iterable[_Axis]:
    axis = node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else 0)
    along_space = axis % len(node.shape) >= len(node.shape) - len(before[0])
    return _all(node, before) if along_space else _union(node, before)


def _linear(node: Node, before: list[Axes]) -> Axes | list[_Axis]:
    """All of the last axis: of channels, behind a flattening, or else of space."""
    return before[0] if len(node.shape) <= 2 else _all(node, before)


def _normalised(node: Node, before: list[Axes]) -> Axes | list[_Axis]:
    """With running statistics it is elementwise, with those of the image it mixes all."""
    layer = node.layer
    of_batch = node.setting("training") if layer is None else not layer.track_running_stats
    return _all(node, before) if of_batch else before[0]


def _shared_out(node: Node, before: list[Axes]) -> Axes | list[_Axis]:
    """Softmax along one axis: of channels, or of space."""
    axis, rank = node.setting("dim", 1), len(before[0])
    along_space = axis is not None and axis % len(node.shape) >= len(node.shape) - rank
    return _all(node, before) if along_space else before[0]


def _unknown(node: Node, before: list[Axes]) -> None:
    return None


_RULES = {
    _all: "global_avg_pool global_max_pool instance_norm group_norm layer_norm",
    _same: "identity dropout relu relu6 silu gelu elu prelu leaky_relu hardsigmoid hardswish sigmoid tanh "
    "softplus local_response_norm channel_shuffle item astype copy clip ascontiguousarray",
    _window: "conv1d conv2d conv3d max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "lp_pool1d lp_pool2d lp_pool3d",
    _transposed_window: "conv_transpose1d conv_transpose2d conv_transpose3d",
    _adaptive_window: "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d",
    _resized: "interpolate",
    _padded: "pad",
    _shuffled: "pixel_shuffle pixel_unshuffle",
    _reshaped: "reshape ravel flatten",
    _exchanged: "transpose swapaxes",
    _reduced: "mean sum max min amax amin var std",
    _cut: "getitem",
    _stacked: "concatenate",
    _linear: "linear",
    _normalised: "batch_norm",
    _shared_out: "softmax log_softmax",
}
_RULE_OF_KIND = {kind: rule for rule, kinds in _RULES.items() for kind in kinds.split()}


def _rule_of(node: Node) -> Callable:
    if isinstance(node.function, np.ufunc):
        return _union
    return _RULE_OF_KIND.get(node.kind, _unknown)
