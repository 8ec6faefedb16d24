"""ONNX's operators on shapes: values are put elsewhere, repeated or left out, seldom changed."""

from __future__ import annotations

import math

import numpy as np

from fastconv import functional as F
from fastconv.onnx import resizing
from fastconv.onnx.context import Context, register
from fastconv.onnx.tensors import TYPES


@register("Concat")
def concat(c: Context, *arrays):
    elements = sum(math.prod(array.shape) for array in arrays)
    c.room((elements,), np.result_type(*(array.dtype for array in arrays)))
    return np.concatenate(arrays, axis=c("axis", 1))


@register("Split")
def split(c: Context, x, sizes=None):
    axis, n = c("axis", 0), len(c.node.outputs)
    sizes = c.ints(sizes, "split")
    if sizes is None:
        each = -(-x.shape[axis] // n)
        sizes = [each] * (n - 1) + [x.shape[axis] - each * (n - 1)]
    if sum(sizes) != x.shape[axis] or min(sizes) < 0 or len(sizes) != n:
        raise c.error(f"{n} parts of {sizes} of an axis of {x.shape[axis]}")
    bounds = np.cumsum([0, *sizes]).tolist()
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(a, b))] for a, b in zip(bounds, bounds[1:], strict=False))


@register("Slice")
def slice_(c: Context, x, starts=None, ends=None, axes=None, steps=None):
    starts, ends = c.ints(starts, "starts"), c.ints(ends, "ends")
    axes, steps = c.ints(axes, "axes"), c.ints(steps, "steps")
    key = [slice(None)] * x.ndim
    axes = list(range(len(starts))) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        size = x.shape[axis]
        # Far ends stand for "all"; below the first element a negative step needs None.
        end = None if step < 0 and end < -size else end
        key[axis] = slice(start, end, step)
    return x[tuple(key)]


@register("Gather")
def gather(c: Context, x, indices):
    axis = c("axis", 0) % x.ndim
    c.room((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, indices, axis=axis)


@register("Reshape")
def reshape(c: Context, x, shape=None):
    sizes = c.ints(shape, "shape")
    if not c("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(*sizes) if sizes else x.reshape(())


@register("Flatten")
def flatten(c: Context, x):
    axis = c("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@register("Transpose")
def transpose(c: Context, x):
    return np.transpose(x, c("perm"))


@register("Squeeze")
def squeeze(c: Context, x, axes=None):
    axes = c.ints(axes, "axes")
    return np.squeeze(x, None if axes is None else tuple(axes))


@register("Unsqueeze")
def unsqueeze(c: Context, x, axes=None):
    return np.expand_dims(x, tuple(c.ints(axes, "axes")))


@register("Expand")
def expand(c: Context, x, shape):
    wanted = np.broadcast_shapes(x.shape, tuple(c.ints(shape, "shape")))
    c.room(wanted, x.dtype)
    return np.broadcast_to(x, wanted)


@register("Tile")
def tile(c: Context, x, repeats):
    repeats = c.ints(repeats, "repeats")
    c.room((math.prod(x.shape) * math.prod(repeats),), x.dtype)
    return np.tile(x, repeats)


@register("Shape")
def shape_(c: Context, x):
    return np.array(x.shape[slice(c("start", 0), c("end"))], np.int64)


@register("Size")
def size_(c: Context, x):
    return np.array(math.prod(x.shape), np.int64)


@register("Constant")
def constant(c: Context):
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints", "value_string"):
        value = c(name)
        if value is not None:
            kinds = {"value": None, "value_string": object}
            kind = kinds.get(name, np.float32 if "float" in name else np.int64)
            return np.asarray(value, kind)
    raise c.error(f"a value of kind {[*c.attributes]}")


@register("ConstantOfShape")
def constant_of_shape(c: Context, shape):
    value = c("value", np.zeros(1, np.float32))
    sizes = tuple(c.ints(shape, "shape"))
    c.room(sizes, value.dtype)
    return np.full(sizes, value.reshape(()), value.dtype)


@register("Range")
def range_(c: Context, start, limit, delta):
    start, limit, delta = (c.constant(each, "an argument") for each in (start, limit, delta))
    n = max(0, math.ceil((limit - start) / delta))
    c.room((n,), start.dtype)
    return (start + np.arange(n) * delta).astype(start.dtype)


@register("Cast")
def cast(c: Context, x):
    if c("to") not in TYPES:
        raise c.error(f"to type {c('to')}")
    c.room(x.shape, TYPES[c("to")])
    return x.astype(TYPES[c("to")])


@register("CastLike")
def cast_like(c: Context, x, like):
    c.room(x.shape, like.dtype)
    return x.astype(like.dtype)


@register("Pad")
def pad(c: Context, x, pads=None, value=None, axes=None):
    modes = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    mode = c("mode", "constant")
    if mode not in modes:
        raise c.error(f"mode is {mode!r}")
    pads, axes = c.ints(pads, "pads"), c.ints(axes, "axes")
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    widths = [(0, 0)] * x.ndim
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        widths[axis] = (low, high)
    key = tuple(
        slice(max(0, -a), size - max(0, -b)) for (a, b), size in zip(widths, x.shape, strict=True)
    )
    x, widths = x[key], [(max(0, a), max(0, b)) for a, b in widths]
    c.room([a + size + b for (a, b), size in zip(widths, x.shape, strict=True)], x.dtype)
    if mode != "constant":
        return np.pad(x, widths, modes[mode])
    fill = c("value", 0) if value is None else c.constant(value, "constant_value").reshape(-1)
    return np.pad(
        x, widths, constant_values=np.asarray(fill, x.dtype).reshape(-1)[0] if np.size(fill) else 0
    )


@register("Resize", "Upsample")
def resize(c: Context, x, *inputs):
    """Opset 10 and Upsample: (x, scales); later: (x, roi, scales, sizes)."""
    roi, scales, sizes = None, None, None
    if c.node.op == "Upsample" or c.opset < 11:
        scales = inputs[0] if inputs else np.asarray(c("scales"), np.float32)
    else:
        roi, scales, sizes = (*inputs, None, None, None)[:3]
    numbers = []
    for value, what in ((roi, "roi"), (scales, "scales"), (sizes, "sizes")):
        value = None if value is None else c.constant(value, what)
        numbers.append(None if value is None or value.size == 0 else value.tolist())
    how = dict(c.attributes)
    if c.node.op == "Upsample" or c.opset < 11:
        how |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return resizing.resize(x, *numbers, how, c.room)


@register("DepthToSpace")
def depth_to_space(c: Context, x):
    n, depth, h, w = x.shape
    b = c("blocksize")
    if c("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    y = x.reshape(n, b, b, depth // (b * b), h, w)
    return np.transpose(y, (0, 3, 4, 1, 5, 2)).reshape(n, depth // (b * b), h * b, w * b)


@register("SpaceToDepth")
def space_to_depth(c: Context, x):
    n, depth, h, w = x.shape
    b = c("blocksize")
    if c("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, b)
    y = x.reshape(n, depth, h // b, b, w // b, b)
    return np.transpose(y, (0, 3, 5, 1, 2, 4)).reshape(n, depth * b * b, h // b, w // b)
