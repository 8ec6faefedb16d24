"""The one judge of what a caller passed: it returns plain, checked problems or raises.

Every judge works in the same order. First all that can run the caller's code is converted
(`operator.index`, `np.asarray`), so that nothing changes under us afterwards. Then shapes are
read and sizes computed with Python's integers, which cannot wrap. Only then are bytes taken.

The door to C always gets arrays with a batch axis: (batch, channels, *space), or
(batch, *space, channels) where `problem.channels_last`.
"""

from __future__ import annotations

import numbers
import operator
import sys
from functools import lru_cache
from itertools import chain
from math import inf, prod
from typing import NamedTuple

import numpy as np

from . import _memory

F32, F64, I64 = map(np.dtype, (np.float32, np.float64, np.int64))
INT64_MAX = 2**63 - 1
ADDRESSABLE = 2**47  # bytes a process can address on x86-64 and AArch64
OVERLAP_WORK = 10_000  # steps np.shares_memory may take, about 0.1 ms, before we assume the worst

SPACE = {1: "L", 2: "HW", 3: "DHW"}
LAYOUTS = ("NCHW", "NHWC")
SAME = ("valid", "same", "same_lower")

# Fused activations: the parameters each takes, and what they are when not given.
ACTIVATIONS = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "silu": {},
    "gelu": {},
    "gelu_tanh": {},
    "sigmoid": {},
    "tanh": {},
    "hardsigmoid": {},
    "hardswish": {},
    "softplus": {"beta": 1.0, "threshold": 20.0},
}

# The public functions by name, filled in by functional.py: who is above us we do not import.
PUBLIC: dict = {}


class ConvProblem(NamedTuple):
    """A convolution in plain numbers; triples are (depth, height, width)."""

    op: str
    dims: int
    batched: bool
    channels_last: bool
    transposed: bool
    batch: int
    ic: int
    oc: int
    groups: int
    size: tuple
    kernel: tuple
    stride: tuple
    dilation: tuple
    pad: tuple
    out_size: tuple
    activation: str | None
    parameters: tuple
    algorithm: str | None
    residual: str | None = None  # or when it is added: "first", "last" (before, after activation)
    prologue: tuple | None = (
        None  # or what follows x * scale + shift: (activation or None, parameters)
    )


class PoolProblem(NamedTuple):
    """A pooling in plain numbers; triples are (depth, height, width)."""

    op: str
    kind: str
    adaptive: bool
    dims: int
    batched: bool
    channels_last: bool
    batch: int
    channels: int
    size: tuple
    kernel: tuple
    stride: tuple
    dilation: tuple
    pad: tuple
    pad_after: tuple
    out_size: tuple
    count_include_pad: bool
    divisor: int


# --- words for messages -------------------------------------------------------------------------


def shown(value) -> str:
    """What came, in a few words, without running the caller's code or printing a novel."""
    kind = type(value)
    if kind is int and value.bit_length() > 128:
        return f"an int of {value.bit_length()} bits"
    if kind in (int, float, complex, bool, str, bytes, type(None)):
        text = repr(value[:40] if kind in (str, bytes) else value)
        return text if kind in (bool, type(None)) else f"{text} ({kind.__name__})"
    if kind is np.ndarray:
        return f"an array of shape {value.shape} and type {value.dtype}"
    return f"an object of type {kind.__name__}"


def quantity(value: int) -> str:
    return shown(value) if value.bit_length() > 128 else str(value)


def expected_axes(dims: int, last: bool) -> str:
    space = SPACE[dims]
    axes = (*space, "C") if last else ("C", *space)
    return f"(N, {', '.join(axes)}) or ({', '.join(axes)})"


# --- scalars and tuples -------------------------------------------------------------------------


def integer(op: str, name: str, value, low: int = 0) -> int:
    if type(value) is not int:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{op}: {name} must be an int, got {shown(bool(value))}")
        try:
            value = int.__add__(operator.index(value), 0)  # an exact int, whatever class it had
        except TypeError:
            raise TypeError(f"{op}: {name} must be an int, got {shown(value)}") from None
    if value < low:
        raise ValueError(f"{op}: {name} must be at least {low}, got {quantity(value)}")
    if value > INT64_MAX:
        raise ValueError(f"{op}: {name} must fit in 64 bits, got {quantity(value)}")
    return value


def items(op: str, name: str, value, what: str) -> tuple:
    """A tuple, list or one-dimensional array as a tuple; other iterables may have no end."""
    if isinstance(value, np.ndarray):
        if value.ndim == 0 or value.size > 64:
            raise ValueError(f"{op}: {name} must be {what}, got {shown(np.asarray(value))}")
        return tuple(value)
    if isinstance(value, (tuple, list)):
        if len(value) > 64:
            raise ValueError(f"{op}: {name} must be {what}, got {len(value)} entries")
        return tuple(value)
    raise TypeError(f"{op}: {name} must be {what}, got {shown(value)}")


def is_sequence(value) -> bool:
    return isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def is_exact(value) -> bool:
    """Whether equal values mean equal calls: 1, 1.0 and True are equal, but not the same."""
    kind = type(value)
    return kind is int or kind is str or (kind is tuple and {*map(type, value)} == {int})


def integers(op: str, name: str, value, dims: int, low: int = 0) -> tuple:
    """An int, or a tuple of `dims` of them; a tuple of one stands for all, as in PyTorch."""
    if not is_sequence(value):
        return (integer(op, name, value, low),) * dims
    entries = items(op, name, value, f"an int or a tuple of {dims}")
    if len(entries) not in (1, dims):
        raise ValueError(
            f"{op}: {name} must be an int or a tuple of {dims}, got {len(entries)} entries"
        )
    return tuple(integer(op, name, e, low) for e in entries) * (dims // len(entries))


def pairs(op: str, name: str, value, dims: int) -> tuple:
    """Padding as a (low, high) pair for each dimension."""
    if not is_sequence(value):
        return ((integer(op, name, value),) * 2,) * dims
    what = f"an int, a tuple of {dims}, or a tuple of {dims} (low, high) pairs"
    entries = items(op, name, value, what)
    if len(entries) not in (1, dims):
        raise ValueError(f"{op}: {name} must be {what}, got {len(entries)} entries")
    found = []
    for entry in entries:
        pair = items(op, name, entry, what) if is_sequence(entry) else (entry, entry)
        if len(pair) != 2:
            raise ValueError(f"{op}: {name} must be {what}, got a tuple of {len(pair)} inside")
        found.append(tuple(integer(op, name, e) for e in pair))
    return tuple(found) * (dims // len(entries))


def real(op: str, name: str, value) -> float:
    if type(value) is float:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a real number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} must fit in a float, got {shown(value)}") from None


def probability(op: str, name: str, value) -> float:
    value = real(op, name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{op}: {name} must be between 0 and 1, got {value}")
    return value


def flag(op: str, name: str, value) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{op}: {name} must be a bool, got {shown(value)}")


def choice(op: str, name: str, value, names) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{op}: {name} must be a str, got {shown(value)}")
    value = str.__str__(value)
    if value not in names:
        raise ValueError(f"{op}: {name} must be one of {', '.join(names)}, got {value[:40]!r}")
    return value


def layout_is_last(op: str, layout) -> bool:
    return layout is not None and choice(op, "layout", layout, LAYOUTS) == "NHWC"


def algorithm_name(op: str, algorithm) -> str | None:
    if algorithm is None:
        return None
    from . import _core  # only who forces an algorithm pays for asking which there are

    return choice(op, "algorithm", algorithm, (*_core.algorithms(), "auto"))


def activation_parameters(op: str, activation) -> tuple[str | None, tuple]:
    """`None`, a name, or (name, *parameters) as a name and the full list of its parameters."""
    if activation is None:
        return None, ()
    given = ()
    if is_sequence(activation):
        what = "a name or (name, *parameters)"
        activation, *given = items(op, "activation", activation, what) or (None,)
    name = choice(op, "activation", activation, ACTIVATIONS)
    known = ACTIVATIONS[name]
    if len(given) > len(known):
        takes = f"takes {len(known)} parameters ({', '.join(known)})" if known else "takes none"
        raise ValueError(f"{op}: activation {name!r} {takes}, got {len(given)}")
    values = [real(op, f"activation {p}", v) for p, v in zip(known, given, strict=False)]
    # Adding 0 turns -0.0 into 0.0: problems are memoised by value, and the two are equal.
    return name, tuple(v + 0.0 for v in chain(values, list(known.values())[len(given) :]))


# --- arrays -------------------------------------------------------------------------------------


def is_masked(value) -> bool:
    ma = sys.modules.get("numpy.ma")  # not imported, it has made no arrays; importing takes 10 ms
    return ma is not None and isinstance(value, ma.MaskedArray)


def array(op: str, name: str, value) -> np.ndarray:
    """`value` as a plain array that a process can address."""
    if type(value) is not np.ndarray:
        if value is None:
            raise TypeError(f"{op}: {name} must be an array, got None")
        if is_masked(value):
            raise TypeError(f"{op}: {name} must not be a masked array; fill it: {name}.filled(0)")
        try:
            value = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{op}: {name} cannot be made an array: {error}") from error
    if value.nbytes > ADDRESSABLE:
        raise ValueError(
            f"{op}: {name} of shape {value.shape} stands for {value.nbytes} bytes, more than the "
            f"{ADDRESSABLE} a process can address"
        )
    return value


def float_kind(dtype: np.dtype) -> np.dtype | None:
    """The native float32 or float64 that `dtype` is, in whatever byte order."""
    if dtype is F32 or dtype is F64:
        return dtype
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return F32 if dtype.itemsize == 4 else F64
    return None


def refuse_kind(op: str, name: str, dtype: np.dtype, expected: str):
    convertible = dtype.kind in "iub" or dtype == np.float16 or dtype == np.longdouble
    variable = "x" if name == "input" else name
    remedy = f"; convert it: {variable}.astype(np.float32)" if convertible else ""
    raise TypeError(f"{op}: {name} must be {expected}, got {dtype}{remedy}")


def engine_float(op: str, name: str, a: np.ndarray) -> np.dtype:
    return float_kind(a.dtype) or refuse_kind(op, name, a.dtype, "float32 or float64")


def operand(op: str, name: str, value, dtype: np.dtype) -> tuple[np.ndarray, np.dtype]:
    """A weight or bias, and the type it asks for: lists and integers take the input's."""
    a = array(op, name, value)
    own = a.dtype
    if own is dtype:
        return a, own
    weak = isinstance(value, (list, tuple, int, float)) and own.kind == "f"
    if own.kind in "iu" or weak:
        return a, dtype
    return a, float_kind(own) or refuse_kind(op, name, own, "of float or integer type")


def ready(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`a` itself where the door can address it by whole elements, else a copy."""
    flags = a.flags
    if (
        (a.dtype is dtype or a.dtype == dtype)
        and flags.aligned
        and (flags.c_contiguous or not any(s % dtype.itemsize for s in a.strides))
    ):
        return a
    with np.errstate(over="ignore"):
        return a.astype(dtype, order="K")


def lies_channels_last(x: np.ndarray, dims: int) -> bool:
    """Whether a channels-first array is a view of channels-last memory (see DESIGN: layout)."""
    return (
        not x.flags.c_contiguous
        and x.ndim > dims
        and x.strides[-dims - 1] == x.itemsize
        and x.shape[-dims - 1] > 1
        and prod(x.shape[-dims:]) > 1
    )


def as_last(a: np.ndarray, dims: int) -> np.ndarray:
    """A view of a channels-first array with its channels last."""
    n = a.ndim
    return a.transpose(*range(n - dims - 1), *range(n - dims, n), n - dims - 1)


def as_first(a: np.ndarray, dims: int) -> np.ndarray:
    """A view of a channels-last array with its channels first."""
    n = a.ndim
    return a.transpose(*range(n - dims - 1), n - 1, *range(n - dims - 1, n - 1))


def overlaps_itself(a: np.ndarray) -> bool:
    """Whether two elements may share bytes: each stride must step over all smaller ones."""
    reach = a.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False


def overlap(out: np.ndarray, a: np.ndarray) -> bool:
    if not np.may_share_memory(out, a):
        return False
    try:
        return np.shares_memory(out, a, max_work=OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def check_out(op: str, out, shape: tuple, dtype: np.dtype):
    if not isinstance(out, np.ndarray) or is_masked(out):
        raise TypeError(f"{op}: out must be a numpy.ndarray, got {shown(out)}")
    if out.dtype != dtype:
        raise TypeError(f"{op}: out must have type {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{op}: out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{op}: out is read-only")
    if out.size and overlaps_itself(out):
        raise ValueError(f"{op}: out has elements that share memory with each other")


def check_bytes(op: str, what: str, shape: tuple, itemsize: int):
    total = prod(shape) * itemsize
    if total > ADDRESSABLE:
        raise ValueError(
            f"{op}: {what} of shape {tuple(map(quantity, shape))} would take {quantity(total)} "
            f"bytes, more than the {ADDRESSABLE} a process can address".replace("'", "")
        )


def engine_can_write(out: np.ndarray, inputs) -> bool:
    return (
        out.flags.aligned
        and not any(s % out.itemsize for s in out.strides)
        and not any(overlap(out, a) for a in inputs)
    )


def result_array(shape, dtype, dims, from_view, out, inputs) -> np.ndarray:
    """What the caller gets: `out` where the engine can write it, else a fresh array.

    Where that is a stand-in for `out`, who called the judge copies it there in the end.
    """
    if out is not None and engine_can_write(out, inputs):
        return out
    if not from_view:
        return _memory.empty(shape, dtype)
    # A view of channels-last memory is answered by another.
    channels, space = shape[-dims - 1], shape[-dims:]
    return as_first(_memory.empty((*shape[: -dims - 1], *space, channels), dtype), dims)


def door_view(a: np.ndarray, dims: int, batched: bool, from_view: bool) -> np.ndarray:
    """`a` as the door takes it: with a batch axis, and channels last where memory has them so."""
    if from_view:
        a = as_last(a, dims)
    return a if batched else a[None]


# --- convolution --------------------------------------------------------------------------------


def read_shape(op: str, shape: tuple, dims: int, last: bool):
    """(batched, batch, channels, size) of an input with or without a batch axis."""
    batched = len(shape) == dims + 2
    if not batched and len(shape) != dims + 1:
        remedy = ""
        if len(shape) == dims:
            index = f"[None, {', '.join(':' * dims)}, None]" if last else "[None, None]"
            remedy = f"; one channel of one image is x{index}"
        raise ValueError(
            f"{op}: input must have axes {expected_axes(dims, last)}, got shape {shape}{remedy}"
        )
    batch, *rest = shape if batched else (1, *shape)
    channels, size = (rest[-1], rest[:-1]) if last else (rest[0], rest[1:])
    if 0 in size:
        raise ValueError(f"{op}: input may be empty in batch or channels only, got shape {shape}")
    return batched, batch, channels, tuple(size)


def full_shape(batched, batch, channels, size, last) -> tuple:
    image = (*size, channels) if last else (channels, *size)
    return (batch, *image) if batched else image


def three(values: tuple, neutral: int) -> tuple:
    return (neutral,) * (3 - len(values)) + tuple(values)


def conv_padding(op, rule, size, extent, stride) -> tuple:
    """(low, high) per dimension; 'same' keeps ceil(size / stride) outputs.

    At stride 1 this is PyTorch's rule, beyond it the SAME_UPPER and SAME_LOWER of ONNX.
    """
    if not isinstance(rule, str):
        return rule
    if rule == "valid":
        return ((0, 0),) * len(size)
    found = []
    for n, reach, s in zip(size, extent, stride, strict=True):
        total = max(0, (-(-n // s) - 1) * s + reach - n)
        less, more = total // 2, total - total // 2
        found.append((less, more) if rule == "same" else (more, less))
    return tuple(found)


def conv_out_size(op, size, pads, extent, stride) -> list:
    found = []
    for n, (lo, hi), reach, s in zip(size, pads, extent, stride, strict=True):
        if n + lo + hi < reach:
            raise ValueError(
                f"{op}: weight reaches over {quantity(reach)} elements (kernel and dilation), more "
                f"than the padded input has: {quantity(n + lo + hi)}"
            )
        found.append((n + lo + hi - reach) // s + 1)
    return found


def transposed_out_size(op, size, pads, extent, stride, dilation, output_padding) -> list:
    found = []
    for n, (lo, hi), reach, s, d, more in zip(
        size, pads, extent, stride, dilation, output_padding, strict=True
    ):
        if more >= max(s, d):
            raise ValueError(
                f"{op}: output_padding must be smaller than stride or dilation, got {more} with "
                f"stride {s} and dilation {d}"
            )
        out = (n - 1) * s + reach + more - lo - hi
        if out < 1:
            raise ValueError(
                f"{op}: padding {(lo, hi)} leaves an output of size {quantity(out)}, "
                "expected at least 1"
            )
        found.append(out)
    return found


def check_weight(op, transposed, shape, dims, ic, groups) -> tuple[int, tuple]:
    """The output channels and the kernel of a weight that fits the input's channels."""
    order = f"({'I, O' if transposed else 'O, I'}/groups, {', '.join('K' * dims)})"
    if len(shape) != dims + 2:
        raise ValueError(f"{op}: weight must have {dims + 2} axes {order}, got shape {shape}")
    if 0 in shape[2:]:
        raise ValueError(f"{op}: weight must have a kernel of at least 1, got shape {shape}")
    first, second = shape[:2]
    oc = second * groups if transposed else first
    if oc == 0:
        raise ValueError(f"{op}: weight must have at least 1 output channel, got shape {shape}")
    if ic % groups or oc % groups:
        raise ValueError(
            f"{op}: groups={groups} must divide the channels of input ({ic}) and of the output "
            f"({oc})"
        )
    if (first if transposed else second * groups) != ic:
        raise ValueError(
            f"{op}: weight of shape {shape} with groups={groups} expects an input of "
            f"{first if transposed else second * groups} channels, got {ic}"
        )
    return oc, shape[2:]


@lru_cache(maxsize=4096)
def conv_problem(
    op, dims, transposed, last, from_view, x_shape, w_shape, b_shape, itemsize,
    stride, padding, output_padding, dilation, groups, algorithm, activation, parameters,
    residual=None,
):  # fmt: skip
    """(problem, shape of the result). All arguments are exact ints, strs and tuples of them."""
    batched, batch, ic, size = read_shape(op, x_shape, dims, last)
    oc, kernel = check_weight(op, transposed, w_shape, dims, ic, groups)
    if b_shape not in (None, (oc,)):
        raise ValueError(f"{op}: bias must have shape {(oc,)}, got {b_shape}")
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = conv_padding(op, padding, size, extent, stride)
    if transposed:
        out = transposed_out_size(op, size, pads, extent, stride, dilation, output_padding)
        padded = [o + lo + hi for o, (lo, hi) in zip(out, pads, strict=True)]
    else:
        out = conv_out_size(op, size, pads, extent, stride)
        padded = [n + lo + hi for n, (lo, hi) in zip(size, pads, strict=True)]
    shape = full_shape(batched, batch, oc, out, last)
    check_bytes(op, "the result", shape, itemsize)
    check_bytes(op, "the padded input" if not transposed else "the unpadded result", padded, 1)
    # A step beyond the padded image is never taken; cut there, no product of C can overflow.
    stride = [min(s, n + 1) for s, n in zip(stride, padded, strict=True)]
    dilation = [min(d, n + 1) for d, n in zip(dilation, padded, strict=True)]
    problem = ConvProblem(
        op, dims, batched, last or from_view, transposed, batch, ic, oc, groups,
        three(size, 1), three(kernel, 1), three(stride, 1), three(dilation, 1),
        three([lo for lo, _ in pads], 0), three(out, 1), activation, parameters, algorithm,
        residual,
    )  # fmt: skip
    return problem, shape


def conv_options(
    op, dims, transposed, stride, padding, output_padding, dilation, groups, algorithm, activation
):
    """The options as `conv_problem` takes them."""
    stride = integers(op, "stride", stride, dims, 1)
    dilation = integers(op, "dilation", dilation, dims, 1)
    groups = integer(op, "groups", groups, 1)
    if isinstance(padding, str) and not transposed:
        padding = choice(op, "padding", padding, SAME)
    else:
        padding = pairs(op, "padding", padding, dims)
    output_padding = integers(op, "output_padding", output_padding, dims)
    algorithm = algorithm_name(op, algorithm)
    activation, parameters = activation_parameters(op, activation)
    return stride, padding, output_padding, dilation, groups, algorithm, activation, parameters


@lru_cache(maxsize=4096)
def usual_conv(op, dims, transposed, from_view, x_shape, w_shape, b_shape, itemsize, *options):
    """`conv_problem` of exact ints and names as options: then equal keys are equal calls."""
    options = conv_options(op, dims, transposed, *options, None, None)
    return conv_problem(
        op, dims, transposed, False, from_view, x_shape, w_shape, b_shape, itemsize, *options
    )


def convolution(
    op, dims, transposed, input, weight, bias, stride, padding, output_padding, dilation, groups,
    algorithm, activation, layout, out, residual=None, residual_after=False, allocate=True,
):  # fmt: skip
    """(problem, x, w, bias, out, result, residual): what the door takes, and the caller gets."""
    x = array(op, "input", input)
    dtype = engine_float(op, "input", x)
    w, w_dtype = operand(op, "weight", weight, dtype)
    b, b_dtype = (None, dtype) if bias is None else operand(op, "bias", bias, dtype)
    r = None if residual is None else array(op, "residual", residual)
    added = residual_rule(op, r, residual_after)
    # Judging takes longer than a small convolution, so the usual calls are memoised as they come.
    last = False
    usual = None is algorithm is activation is layout is r and (
        int is type(stride) is type(padding) is type(output_padding) is type(dilation)
        and int is type(groups)
        or all(map(is_exact, (stride, padding, output_padding, dilation, groups)))
    )
    if not usual:
        options = conv_options(
            op, dims, transposed, stride, padding, output_padding, dilation, groups, algorithm,
            activation,
        )  # fmt: skip
        last = layout_is_last(op, layout)
    # From here on none of the caller's code runs, and shapes stay as they are.
    if not dtype is w_dtype is b_dtype:
        dtype = np.result_type(dtype, w_dtype, b_dtype)
    from_view = not last and lies_channels_last(x, dims)
    shapes = x.shape, w.shape, None if b is None else b.shape
    if usual:
        problem, shape = usual_conv(
            op, dims, transposed, from_view, *shapes, dtype.itemsize,
            stride, padding, output_padding, dilation, groups,
        )  # fmt: skip
    else:
        problem, shape = conv_problem(
            op, dims, transposed, last, from_view, *shapes, dtype.itemsize, *options, added
        )
    if out is not None:
        check_out(op, out, shape, dtype)
    if r is not None:
        check_residual(op, r, shape, dtype)
    x, w = ready(x, dtype), ready(w, dtype)
    b = None if b is None else np.ascontiguousarray(ready(b, dtype))
    result = y = None
    if allocate:
        inputs = (x, w) if b is None else (x, w, b)
        if r is None:
            result = result_array(shape, dtype, dims, from_view, out, inputs)
        else:
            r = ready(r, dtype)
            result, r = with_residual(r, shape, dtype, dims, from_view, out, (*inputs, r))
            r = door_view(r, dims, problem.batched, from_view)
        y = door_view(result, dims, problem.batched, from_view)
    x = door_view(x, dims, problem.batched, from_view)
    if problem.ic == 0:
        problem, x, w = with_a_zero_channel(problem, x, w)
    return problem, x, w, b, y, result, r


def residual_rule(op, residual, after) -> str | None:
    if after is not False and flag(op, "residual_after", after):
        if residual is None:
            raise ValueError(f"{op}: residual_after=True needs a residual, got None")
        return "last"
    return None if residual is None else "first"


def check_residual(op, residual, shape, dtype):
    if float_kind(residual.dtype) is not dtype:
        raise TypeError(f"{op}: residual must have type {dtype}, got {residual.dtype}")
    if residual.shape != shape:
        raise ValueError(f"{op}: residual must have shape {shape}, got {residual.shape}")


def lies_as(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether elements of the same index are as far apart in both."""
    return all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))


def with_residual(residual, shape, dtype, dims, from_view, out, inputs):
    """(result, residual) that lie alike, as the door wants them: one of them is a copy, if need be."""
    result = result_array(shape, dtype, dims, from_view, out, inputs)
    if not lies_as(residual, result):
        new = result_array(shape, dtype, dims, from_view, None, ())
        if result is out and lies_as(residual, new):
            return new, residual
        new[...] = residual
        residual = new
        if not lies_as(residual, result):
            result = result_array(shape, dtype, dims, from_view, None, ())
    return result, residual


def with_a_zero_channel(problem: ConvProblem, x: np.ndarray, w: np.ndarray):
    """An empty sum as a sum of zeros, so that the engine knows no empty sums."""
    groups, last = problem.groups, problem.channels_last
    shape = (*x.shape[:-1], groups) if last else (x.shape[0], groups, *x.shape[2:])
    first = groups if problem.transposed else problem.oc
    second = problem.oc // groups if problem.transposed else 1
    zero = np.zeros((), x.dtype)
    return (
        problem._replace(ic=groups),
        np.broadcast_to(zero, shape),
        np.broadcast_to(zero, (first, second, *w.shape[2:])),
    )


def linear(op, input, weight, bias, allocate=True):
    """`linear` as the convolution of 1x1x1 images; as `convolution`, but for the residual."""
    x = array(op, "input", input)
    dtype = engine_float(op, "input", x)
    w, w_dtype = operand(op, "weight", weight, dtype)
    b, b_dtype = (None, dtype) if bias is None else operand(op, "bias", bias, dtype)
    dtype = np.result_type(dtype, w_dtype, b_dtype)
    if w.ndim != 2 or w.shape[0] == 0:
        raise ValueError(f"{op}: weight must have shape (out, in), got {w.shape}")
    if x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"{op}: input must have a last axis of {w.shape[1]}, as weight has, got shape {x.shape}"
        )
    *lead, ic = x.shape
    rows, oc = prod(lead), w.shape[0]
    ones = (1, 1, 1)
    problem, _ = conv_problem(
        op, 3, False, False, False, (rows, ic, *ones), (oc, ic, *ones),
        None if b is None else b.shape, dtype.itemsize, ones, ((0, 0),) * 3, 0, ones, 1, None, None,
        (),
    )  # fmt: skip
    x = ready(x, dtype).reshape(rows, ic, *ones)
    w = ready(w, dtype).reshape(oc, ic, *ones)
    b = None if b is None else np.ascontiguousarray(ready(b, dtype))
    result = y = None
    if allocate:
        result = _memory.empty((*lead, oc), dtype)
        y = result.reshape(rows, oc, *ones)
    if ic == 0:
        problem, x, w = with_a_zero_channel(problem, x, w)
    return problem, x, w, b, y, result


# --- pooling ------------------------------------------------------------------------------------


def pool_kind(op: str, kind: str, dtype: np.dtype) -> np.dtype:
    """The type of the result; the input is converted to it, except that float16 stays itself."""
    own = float_kind(dtype)
    if own is not None:
        return own
    if dtype == np.float16 or (kind == "max" and dtype.kind in "biuf"):
        return dtype.newbyteorder("=")
    if kind == "avg" and dtype.kind in "biu":
        return F64  # as np.mean
    return refuse_kind(op, "input", dtype, "of bool, integer or float type")


def pool_out_size(op, size, kernel, stride, pads, dilation, ceil_mode) -> list:
    found = []
    for n, k, s, (lo, hi), d in zip(size, kernel, stride, pads, dilation, strict=True):
        reach = d * (k - 1) + 1
        if max(lo, hi) > reach // 2:
            raise ValueError(
                f"{op}: padding must be at most half of what kernel_size reaches over "
                f"({quantity(reach)}), got {max(lo, hi)}"
            )
        out = (n + lo + hi - reach + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= n + lo:
            out -= 1  # the last window must start in the input or in the padding before it
        if out < 1:
            raise ValueError(
                f"{op}: kernel_size reaches over {quantity(reach)} elements, more than the padded "
                f"input has: {quantity(n + lo + hi)}"
            )
        found.append(out)
    return found


@lru_cache(maxsize=4096)
def pool_problem(
    op, dims, kind, last, from_view, x_shape, itemsize, kernel, stride, pads, dilation, ceil_mode,
    count_include_pad, divisor,
):  # fmt: skip
    """(problem, shape of the result). All arguments are exact ints, bools, strs and tuples."""
    batched, batch, channels, size = read_shape(op, x_shape, dims, last)
    out = pool_out_size(op, size, kernel, stride, pads, dilation, ceil_mode)
    padded = [n + lo + hi for n, (lo, hi) in zip(size, pads, strict=True)]
    shape = full_shape(batched, batch, channels, out, last)
    check_bytes(op, "the result", shape, itemsize)
    check_bytes(op, "the padded input", padded, 1)
    check_bytes(op, "the window kernel_size", kernel, 1)
    # A step beyond the padded image is never taken; cut there, no product of C can overflow.
    stride = [min(s, n + 1) for s, n in zip(stride, padded, strict=True)]
    dilation = [min(d, n + 1) for d, n in zip(dilation, padded, strict=True)]
    problem = PoolProblem(
        op, kind, False, dims, batched, last or from_view, batch, channels,
        three(size, 1), three(kernel, 1), three(stride, 1), three(dilation, 1),
        three([lo for lo, _ in pads], 0), three([hi for _, hi in pads], 0), three(out, 1),
        count_include_pad, divisor,
    )  # fmt: skip
    return problem, shape


@lru_cache(maxsize=4096)
def adaptive_problem(op, dims, kind, from_view, x_shape, itemsize, output_size):
    """(problem, shape of the result); a None in `output_size` keeps the input's size."""
    batched, batch, channels, size = read_shape(op, x_shape, dims, False)
    out = [n if o is None else o for n, o in zip(size, output_size, strict=True)]
    shape = full_shape(batched, batch, channels, out, False)
    check_bytes(op, "the result", shape, max(itemsize, 8))  # 8: indices
    ones, zeros = (1, 1, 1), (0, 0, 0)
    problem = PoolProblem(
        op, kind, True, dims, batched, from_view, batch, channels,
        three(size, 1), ones, ones, ones, zeros, zeros, three(out, 1), True, 0,
    )  # fmt: skip
    return problem, shape


def pool_options(
    op, dims, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor
):
    """The options as `pool_problem` takes them."""
    kernel = integers(op, "kernel_size", kernel_size, dims, 1)
    # PyTorch takes an empty tuple for "as kernel_size" too.
    as_kernel = stride is None or (isinstance(stride, (tuple, list)) and len(stride) == 0)
    stride = kernel if as_kernel else integers(op, "stride", stride, dims, 1)
    pads = pairs(op, "padding", padding, dims)
    dilation = integers(op, "dilation", dilation, dims, 1)
    ceil_mode = flag(op, "ceil_mode", ceil_mode)
    count_include_pad = flag(op, "count_include_pad", count_include_pad)
    if divisor is not None:
        divisor = integer(op, "divisor_override", divisor, -INT64_MAX)
        if divisor == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")
    return kernel, stride, pads, dilation, ceil_mode, count_include_pad, divisor or 0


@lru_cache(maxsize=4096)
def usual_pool(op, dims, kind, from_view, x_shape, itemsize, *options):
    """`pool_problem` of exact ints and bools as options: then equal keys are equal calls."""
    options = pool_options(op, dims, *options)
    return pool_problem(op, dims, kind, False, from_view, x_shape, itemsize, *options)


def pooling(
    op, dims, kind, input, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad,
    divisor_override, return_indices, layout, out=None, allocate=True,
):  # fmt: skip
    """(problem, x, out, indices, result, positions): the door's arrays, then the caller's."""
    x = array(op, "input", input)
    dtype = pool_kind(op, kind, x.dtype)
    last = False
    options = (
        kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override,
    )  # fmt: skip
    usual = (
        bool is type(ceil_mode) is type(count_include_pad)
        and None is divisor_override is layout
        and (stride is None or is_exact(stride))
        and (
            int is type(kernel_size) is type(padding) is type(dilation)
            or all(map(is_exact, (kernel_size, padding, dilation)))
        )
    )
    if not usual:
        options = pool_options(op, dims, *options)
        last = layout_is_last(op, layout)
    return_indices = flag(op, "return_indices", return_indices)
    # From here on none of the caller's code runs, and shapes stay as they are.
    itemsize = max(dtype.itemsize, 8) if return_indices else dtype.itemsize
    from_view = not last and lies_channels_last(x, dims)
    if usual:
        problem, shape = usual_pool(op, dims, kind, from_view, x.shape, itemsize, *options)
    else:
        problem, shape = pool_problem(op, dims, kind, last, from_view, x.shape, itemsize, *options)
    return pool_arrays(problem, shape, x, dtype, from_view, return_indices, out, allocate)


def adaptive_pooling(op, dims, kind, input, output_size, return_indices, allocate=True):
    """The same six as `pooling`."""
    x = array(op, "input", input)
    dtype = pool_kind(op, kind, x.dtype)
    sizes = (output_size,)
    if is_sequence(output_size):
        sizes = items(op, "output_size", output_size, f"an int or a tuple of {dims}")
        if len(sizes) not in (1, dims):
            raise ValueError(
                f"{op}: output_size must be an int or a tuple of {dims}, got {len(sizes)} entries"
            )
    sizes = tuple(None if s is None else integer(op, "output_size", s) for s in sizes)
    return_indices = flag(op, "return_indices", return_indices)
    from_view = lies_channels_last(x, dims)
    problem, shape = adaptive_problem(
        op, dims, kind, from_view, x.shape, dtype.itemsize, sizes * (dims // len(sizes))
    )
    return pool_arrays(problem, shape, x, dtype, from_view, return_indices, None, allocate)


def global_pooling(op, kind, input, allocate=True):
    """The same six as `pooling`, for any number of spatial axes."""
    x = array(op, "input", input)
    pool_kind(op, kind, x.dtype)
    if x.ndim < 3:
        remedy = "; one channel of one image is x[None, None]" if x.ndim == 2 else ""
        raise ValueError(
            f"{op}: input must have axes (N, C, ...) with one or more after them, got shape "
            f"{x.shape}{remedy}"
        )
    shape, dims = x.shape, min(x.ndim - 2, 3)
    if 0 in shape[2:]:
        raise ValueError(f"{op}: input may be empty in batch or channels only, got shape {shape}")
    if x.ndim > 5:  # the engine knows three axes of space
        x = x.reshape(*shape[:2], prod(shape[2:-2]), *shape[-2:])
    *door, result, positions = adaptive_pooling(op, dims, kind, x, 1, False, allocate)
    if result is not None:
        result = result.reshape(*shape[:2], *(1,) * (len(shape) - 2))
    return *door, result, positions


def pool_arrays(problem, shape, x, dtype, from_view, return_indices, out, allocate):
    dims, batched = problem.dims, problem.batched
    if out is not None:
        check_out(problem.op, out, shape, dtype)
    x = ready(x, dtype)
    y = result = indices = positions = None
    if allocate:
        result = result_array(shape, dtype, dims, from_view, out, (x,))
        y = door_view(result, dims, batched, from_view)
        if return_indices:
            positions = result_array(shape, I64, dims, from_view, None, ())
            indices = door_view(positions, dims, batched, from_view)
    return problem, door_view(x, dims, batched, from_view), y, indices, result, positions


def power(op, norm_type) -> float:
    value = real(op, "norm_type", norm_type)
    if value == 0 or value != value:
        raise ValueError(f"{op}: norm_type must be a number other than 0, got {value}")
    return value


def unpooling(op, dims, input, indices, kernel_size, stride, padding, output_size):
    """(x, indices, shape of the result); indices count within the plane of one channel."""
    x = plain(op, "input", input)
    places = array(op, "indices", indices)
    kernel = integers(op, "kernel_size", kernel_size, dims, 1)
    stride = kernel if stride is None else integers(op, "stride", stride, dims, 1)
    pad = integers(op, "padding", padding, dims)
    if output_size is not None:
        what = f"a tuple of {dims}, or of {dims + 2} with batch and channels"
        output_size = items(op, "output_size", output_size, what)
        if len(output_size) not in (dims, dims + 2):
            raise ValueError(f"{op}: output_size must be {what}, got {len(output_size)} entries")
        output_size = [integer(op, "output_size", n, 1) for n in output_size[-dims:]]
    if places.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices must be of integer type, got {places.dtype}")
    batched, batch, channels, size = read_shape(op, x.shape, dims, False)
    if places.shape != x.shape:
        raise ValueError(f"{op}: indices must have shape {x.shape}, got {places.shape}")
    zipped = zip(size, stride, kernel, pad, strict=True)
    natural = [(n - 1) * s + k - 2 * p for n, s, k, p in zipped]
    space = output_size or natural
    for n, m, s in zip(space, natural, stride, strict=True):
        if not m - s < n < m + s or n < 1:
            raise ValueError(
                f"{op}: output_size must be at least 1 and less than stride={s} away from "
                f"{quantity(m)}, got {quantity(n)}"
            )
    shape = full_shape(batched, batch, channels, space, False)
    check_bytes(op, "the result", shape, x.itemsize)
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < prod(space):
        raise IndexError(
            f"{op}: indices must be from 0 to {prod(space) - 1}, got some from {places.min()} to "
            f"{places.max()}"
        )
    return x, places, shape


# --- functions that are plain NumPy -------------------------------------------------------------


def plain(op: str, name: str, value) -> np.ndarray:
    """An array of any bool, integer or float type, in native byte order."""
    a = array(op, name, value)
    if a.dtype.kind not in "biuf":
        refuse_kind(op, name, a.dtype, "of bool, integer or float type")
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def floating(op: str, name: str, value) -> np.ndarray:
    """An array of type float16, float32 or float64, in native byte order."""
    a = array(op, name, value)
    if a.dtype.kind != "f" or a.dtype.itemsize > 8:
        refuse_kind(op, name, a.dtype, "float16, float32 or float64")
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def float_type(op: str, dtype) -> np.dtype:
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"{op}: dtype must be float16, float32 or float64, got {shown(dtype)}"
        ) from error
    if kind.kind != "f" or kind.itemsize > 8:
        raise TypeError(f"{op}: dtype must be float16, float32 or float64, got {kind}")
    return kind.newbyteorder("=")


def vector(op: str, name: str, value, shape: tuple) -> np.ndarray | None:
    """An optional array of numbers of a given shape: a scale, a shift, a mean."""
    if value is None:
        return None
    a = array(op, name, value)
    if a.dtype.kind not in "iuf":
        refuse_kind(op, name, a.dtype, "of float or integer type")
    if a.shape != shape:
        raise ValueError(f"{op}: {name} must have shape {shape}, got {a.shape}")
    return a


def running(op: str, name: str, value, channels: int, written: bool) -> np.ndarray | None:
    """A running statistic, which is updated in place."""
    a = vector(op, name, value, (channels,))
    if a is not None and written:
        if not isinstance(value, np.ndarray) or a.dtype.kind != "f":
            raise TypeError(
                f"{op}: {name} is updated in place, so it must be an array of float type, got "
                f"{shown(value)}"
            )
        if not a.flags.writeable:
            raise ValueError(f"{op}: {name} is updated in place, but is read-only")
    return a


def at_least(op: str, x: np.ndarray, ndim: int, axes: str):
    if x.ndim < ndim:
        remedy = "; one channel of one image is x[None, None]" if x.ndim == 2 == ndim - 1 else ""
        raise ValueError(f"{op}: input must have axes {axes}, got shape {x.shape}{remedy}")


def overwritable(op: str, input, inplace) -> bool:
    if not flag(op, "inplace", inplace):
        return False
    if not isinstance(input, np.ndarray):
        raise TypeError(f"{op}: inplace=True needs input to be an array, got {shown(input)}")
    if not input.flags.writeable:
        raise ValueError(f"{op}: inplace=True, but input is read-only")
    return True


def axis(op: str, name: str, value, ndim: int) -> int:
    value = integer(op, name, value, -INT64_MAX)
    if not -ndim <= value < max(ndim, 1):
        raise ValueError(f"{op}: {name} must be from {-ndim} to {ndim - 1}, got {value}")
    return value % max(ndim, 1)


PAD_MODES = ("constant", "reflect", "replicate", "circular")


def padding(op, input, pad, mode, value):
    """(x, ((low, high) for each axis of x), mode, value)."""
    x = plain(op, "input", input)
    flat = items(op, "pad", pad, "a tuple of (low, high) pairs, last axis first")
    flat = [integer(op, "pad", p, -INT64_MAX) for p in flat]
    mode = choice(op, "mode", mode, PAD_MODES)
    if value is not None:
        if mode != "constant":
            raise ValueError(f"{op}: value is for mode='constant', got mode={mode!r}")
        value = fill_value(op, value, x.dtype)
    if len(flat) % 2 or len(flat) > 2 * x.ndim:
        raise ValueError(
            f"{op}: pad must have a (low, high) pair for each of at most {x.ndim} axes, got "
            f"{len(flat)} entries"
        )
    ends = [(0, 0)] * (x.ndim - len(flat) // 2)
    ends += zip(flat[-2::-2], flat[::-2], strict=True)
    for n, (lo, hi) in zip(x.shape, ends, strict=True):
        check_pad(op, mode, n, lo, hi)
    check_bytes(
        op, "the result", [n + lo + hi for n, (lo, hi) in zip(x.shape, ends, strict=True)],
        x.itemsize,
    )  # fmt: skip
    return x, ends, mode, 0 if value is None else value


def check_pad(op, mode, n, lo, hi):
    if mode == "constant":
        if n + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"{op}: pad {(lo, hi)} takes more than the {n} elements of an axis")
        return
    kept = n + min(lo, 0) + min(hi, 0)
    most = {"reflect": max(n - 1, 0), "circular": kept, "replicate": INT64_MAX if n else 0}[mode]
    if n + lo + hi < 0 or max(lo, hi) > most:
        raise ValueError(
            f"{op}: pad must be at most {most} and leave something of an axis of {n} for "
            f"mode={mode!r}, got {quantity(lo)} and {quantity(hi)}"
        )


def fill_value(op, value, dtype):
    if dtype.kind == "b" and isinstance(value, (bool, np.bool_)):
        return bool(value)
    number = real(op, "value", value)
    if dtype.kind == "f":
        return number
    if number != number or number in (inf, -inf) or number != int(number):
        raise ValueError(f"{op}: value must be an integer for input of type {dtype}, got {number}")
    whole = value if isinstance(value, numbers.Integral) else number
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not low <= int(whole) <= high:
        raise ValueError(f"{op}: value must fit in {dtype}, got {shown(value)}")
    return int(whole)


# Interpolation modes: how many axes of space each is for.
RESIZE_MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "trilinear": (3,),
    "bicubic": (2,),
    "area": (1, 2, 3),
}
SMOOTHED_MODES = ("bilinear", "bicubic")


def resizing(op, input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias):
    """(x, output size, scale factor or None for each axis, mode, align_corners, antialias)."""
    mode = choice(op, "mode", mode, RESIZE_MODES)
    aligned = align_corners is not None and flag(op, "align_corners", align_corners)
    smooth = flag(op, "antialias", antialias)
    if smooth and mode not in SMOOTHED_MODES:
        raise ValueError(
            f"{op}: antialias is for mode {' and '.join(map(repr, SMOOTHED_MODES))}, got {mode!r}"
        )
    keep = mode.startswith("nearest")
    x = (plain if keep or mode == "area" else floating)(op, "input", input)
    recompute = recompute_scale_factor is not None and flag(
        op, "recompute_scale_factor", recompute_scale_factor
    )
    given = sized(op, "size", size, lambda n: integer(op, "size", n, 1))
    scales = sized(op, "scale_factor", scale_factor, lambda f: real(op, "scale_factor", f))
    dims = x.ndim - 2
    if dims not in RESIZE_MODES[mode]:
        remedy = "; one channel of one image is x[None, None]" if dims == 0 else ""
        axes = " or ".join(f"(N, C, {', '.join(SPACE[d])})" for d in RESIZE_MODES[mode])
        raise ValueError(
            f"{op}: input must have axes {axes} for mode={mode!r}, got shape {x.shape}{remedy}"
        )
    if align_corners is not None and (keep or mode == "area"):
        raise ValueError(f"{op}: align_corners is not for mode={mode!r}")
    if (given is None) == (scales is None):
        raise ValueError(f"{op}: one of size and scale_factor must be given, and not both")
    if 0 in x.shape[2:]:
        raise ValueError(f"{op}: input may be empty in batch or channels only, got shape {x.shape}")
    if recompute and given is not None:
        raise ValueError(f"{op}: recompute_scale_factor needs scale_factor, got size")
    given, scales = for_each(op, "size", given, dims), for_each(op, "scale_factor", scales, dims)
    if scales is not None:
        given = [scaled(op, n, f) for n, f in zip(x.shape[2:], scales, strict=True)]
    check_bytes(op, "the result", (*x.shape[:2], *given), x.itemsize)
    factors = [None] * dims if scales is None or recompute else scales
    return x, given, factors, mode, aligned, smooth


def sized(op, name, value, convert) -> list | None:
    if value is None:
        return None
    return [
        convert(e)
        for e in (items(op, name, value, "a number or a tuple") if is_sequence(value) else (value,))
    ]


def for_each(op, name, entries, dims) -> list | None:
    if entries is None or len(entries) == dims:
        return entries
    if len(entries) != 1:
        raise ValueError(
            f"{op}: {name} must be a number or a tuple of {dims}, got {len(entries)} entries"
        )
    return entries * dims


def scaled(op, n, factor) -> int:
    if not 0 < factor < inf or n * factor < 1 or n * factor > INT64_MAX:
        raise ValueError(
            f"{op}: scale_factor must be positive and leave 1 to 2**63 - 1 elements of {n}, got "
            f"{factor}"
        )
    return int(n * factor)


def pixel_shuffling(op, input, factor, undo):
    """(x, factor)."""
    x = plain(op, "input", input)
    name = "downscale_factor" if undo else "upscale_factor"
    factor = integer(op, name, factor, 1)
    at_least(op, x, 3, "(..., C, H, W)")
    if undo and (x.shape[-1] % factor or x.shape[-2] % factor):
        raise ValueError(f"{op}: {name}={factor} must divide H and W, got shape {x.shape}")
    if not undo and x.shape[-3] % (factor * factor):
        raise ValueError(
            f"{op}: {name}={factor} squared must divide the channels, got shape {x.shape}"
        )
    return x, factor


def channel_shuffling(op, input, groups):
    """(x, groups)."""
    x = plain(op, "input", input)
    groups = integer(op, "groups", groups, 1)
    at_least(op, x, 3, "(N, C, ...)")
    if x.shape[1] % groups:
        raise ValueError(f"{op}: groups={groups} must divide the channels, got shape {x.shape}")
    return x, groups


def patches(op, x, size, kernel_size, dilation, padding, stride):
    """(kernel, dilation, pad, stride, how many patches along each axis); `size` of the image."""
    kernel = integers(op, "kernel_size", kernel_size, 2, 1)
    dilation = integers(op, "dilation", dilation, 2, 1)
    pad = integers(op, "padding", padding, 2)
    stride = integers(op, "stride", stride, 2, 1)
    count = []
    for n, k, d, p, s in zip(size, kernel, dilation, pad, stride, strict=True):
        reach = d * (k - 1) + 1
        if n + 2 * p < reach:
            raise ValueError(
                f"{op}: kernel_size reaches over {quantity(reach)} elements, more than the padded "
                f"image has: {quantity(n + 2 * p)}"
            )
        count.append((n + 2 * p - reach) // s + 1)
    check_bytes(op, "the padded image", [n + 2 * p for n, p in zip(size, pad, strict=True)], 1)
    return kernel, dilation, pad, stride, count


def unfolding(op, input, kernel_size, dilation, padding, stride):
    """(x, kernel, dilation, pad, stride, count)."""
    x = plain(op, "input", input)
    _, batch, channels, size = read_shape(op, x.shape, 2, False)
    rest = patches(op, x, size, kernel_size, dilation, padding, stride)
    check_bytes(op, "the result", (batch, channels, *rest[0], *rest[-1]), x.itemsize)
    return x, *rest


def folding(op, input, output_size, kernel_size, dilation, padding, stride):
    """(x, output size, kernel, dilation, pad, stride, count)."""
    x = plain(op, "input", input)
    if x.dtype.kind == "b":
        refuse_kind(op, "input", x.dtype, "of integer or float type")
    size = integers(op, "output_size", output_size, 2, 1)
    if x.ndim not in (2, 3):
        raise ValueError(f"{op}: input must have axes (N, C*K, L) or (C*K, L), got shape {x.shape}")
    rest = patches(op, x, size, kernel_size, dilation, padding, stride)
    kernel, count = rest[0], rest[-1]
    if x.shape[-2] % prod(kernel):
        raise ValueError(
            f"{op}: kernel_size {kernel} must divide the {x.shape[-2]} rows of input, shape "
            f"{x.shape}"
        )
    if x.shape[-1] != prod(count):
        raise ValueError(
            f"{op}: input must have {quantity(prod(count))} patches for output_size {size}, got "
            f"{x.shape[-1]}"
        )
    check_bytes(op, "the result", (*x.shape[:-2], x.shape[-2] // prod(kernel), *size), x.itemsize)
    return x, size, *rest


def normalising(op, input, running_mean, running_var, weight, bias, use_stats, momentum, eps):
    """(x, running_mean, running_var, weight, bias, momentum, eps), for batch and instance norm."""
    x = floating(op, "input", input)
    momentum, eps = real(op, "momentum", momentum), real(op, "eps", eps)
    if eps < 0:
        raise ValueError(f"{op}: eps must not be negative, got {eps}")
    at_least(op, x, 2, "(N, C, ...)")
    channels = x.shape[1]
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}: running_mean and running_var must be given together")
    if running_mean is None and not use_stats:
        raise ValueError(f"{op}: running_mean must be given where the input's own is not used")
    mean = running(op, "running_mean", running_mean, channels, use_stats)
    var = running(op, "running_var", running_var, channels, use_stats)
    scale = vector(op, "weight", weight, (channels,))
    shift = vector(op, "bias", bias, (channels,))
    return x, mean, var, scale, shift, momentum, eps


def batch_normalising(op, input, mean, var, weight, bias, training, momentum, eps):
    training = flag(op, "training", training)
    judged = normalising(op, input, mean, var, weight, bias, training, momentum, eps)
    x = judged[0]
    if training and x.size and x.size == x.shape[1]:
        raise ValueError(
            f"{op}: input must have more than 1 value per channel in training, got shape {x.shape}"
        )
    return *judged, training


def instance_normalising(op, input, mean, var, weight, bias, use_input_stats, momentum, eps):
    use = flag(op, "use_input_stats", use_input_stats)
    judged = normalising(op, input, mean, var, weight, bias, use, momentum, eps)
    x = judged[0]
    at_least(op, x, 3, "(N, C, ...)")
    if use and prod(x.shape[2:]) < 2:
        raise ValueError(
            f"{op}: input must have more than 1 value per channel and sample, got shape {x.shape}"
        )
    return *judged, use


def group_normalising(op, input, num_groups, weight, bias, eps):
    """(x, num_groups, weight, bias, eps)."""
    x = floating(op, "input", input)
    groups, eps = integer(op, "num_groups", num_groups, 1), real(op, "eps", eps)
    at_least(op, x, 2, "(N, C, ...)")
    channels = x.shape[1]
    if channels % groups:
        raise ValueError(f"{op}: num_groups={groups} must divide the channels ({channels})")
    scale = vector(op, "weight", weight, (channels,))
    return x, groups, scale, vector(op, "bias", bias, (channels,)), eps


def layer_normalising(op, input, normalized_shape, weight, bias, eps):
    """(x, how many axes are normalised, weight, bias, eps)."""
    x = floating(op, "input", input)
    shape = normalized_shape if is_sequence(normalized_shape) else (normalized_shape,)
    shape = items(op, "normalized_shape", shape, "an int or a tuple")
    shape = tuple(integer(op, "normalized_shape", n) for n in shape)
    eps = real(op, "eps", eps)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(
            f"{op}: normalized_shape must be the last axes of input, shape {x.shape}, got {shape}"
        )
    return x, len(shape), vector(op, "weight", weight, shape), vector(op, "bias", bias, shape), eps


def response_normalising(op, input, size, alpha, beta, k):
    """(x, size, alpha, beta, k)."""
    x = floating(op, "input", input)
    size = integer(op, "size", size, 1)
    alpha, beta, k = (real(op, n, v) for n, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    at_least(op, x, 3, "(N, C, ...)")
    return x, size, alpha, beta, k


def softening(op, input, dim, dtype):
    """(x as dtype, axis); not given, the axis is 1, or 0 for arrays of 0, 1 and 3 axes, as in PyTorch."""
    if dtype is None:
        x = floating(op, "input", input)
    else:
        x = plain(op, "input", input).astype(float_type(op, dtype), copy=False)
    return x, (0 if x.ndim in (0, 1, 3) else 1) if dim is None else axis(op, "dim", dim, x.ndim)


def dropping(op, input, p, training, inplace):
    """(x, p, training, whether to write into x)."""
    x = floating(op, "input", input)
    p, training = probability(op, "p", p), flag(op, "training", training)
    return x, p, training, overwritable(op, input, inplace)


def slopes(op, input, weight):
    """(x, slopes) of prelu, x as (rows, channels, rest)."""
    x = floating(op, "input", input)
    w = array(op, "weight", weight)
    if w.dtype.kind not in "iuf":
        refuse_kind(op, "weight", w.dtype, "of float or integer type")
    channels = x.shape[1] if x.ndim > 1 else 1
    if w.size not in (1, channels) or w.ndim > 1:
        raise ValueError(
            f"{op}: weight must have shape (1,) or (channels,) = {(channels,)}, got {w.shape}"
        )
    return x, w.reshape(-1)


def kernel_axes(op, w, ndim):
    w = plain(op, "w", w)
    if w.ndim not in ndim:
        raise ValueError(f"{op}: w must have {' or '.join(map(str, ndim))} axes, got {w.shape}")
    return w


# --- what a call would do -----------------------------------------------------------------------

CONVOLUTIONS = {
    f"conv{'_transpose' if transposed else ''}{dims}d": (dims, transposed)
    for dims in SPACE
    for transposed in (False, True)
}
POOLS = {f"{kind}_pool{dims}d": (dims, kind) for dims in SPACE for kind in ("max", "avg")}
ADAPTIVE = {f"adaptive_{name}": key for name, key in POOLS.items()}
GLOBAL = {"global_avg_pool": "avg", "global_max_pool": "max"}


def judge(op, args: tuple, kwargs: dict) -> tuple:
    """What the public function `op`, or the one of that name, would pass to the door.

    The tuples of `convolution` and `pooling`, with nothing allocated for the result.
    """
    import inspect  # costs 5 ms to import and is for explaining only

    name = op if isinstance(op, str) else getattr(op, "__name__", None)
    if name not in PUBLIC:
        raise ValueError(f"explain: op must be a public function or its name, got {shown(op)}")
    call = inspect.signature(PUBLIC[name]).bind(*args, **kwargs)
    call.apply_defaults()
    given = dict(call.arguments, allocate=False)
    if name in CONVOLUTIONS:
        dims, transposed = CONVOLUTIONS[name]
        return convolution(name, dims, transposed, **{"output_padding": 0, **given})
    if name == "linear":
        return linear(name, **given)
    if name in POOLS:
        neutral = dict(dilation=1, count_include_pad=True, divisor_override=None)
        return pooling(name, *POOLS[name], **{**neutral, "return_indices": False, **given})
    if name in ADAPTIVE:
        return adaptive_pooling(name, *ADAPTIVE[name], **{"return_indices": False, **given})
    if name in GLOBAL:
        return global_pooling(name, GLOBAL[name], **given)
    raise ValueError(f"explain: op must be a convolution or a pooling, got {name}")
