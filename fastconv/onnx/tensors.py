"""Tensors of a model file as arrays: views of the file where it holds them whole."""

from __future__ import annotations

import math
import mmap
import os
import stat
from pathlib import Path, PurePosixPath

import numpy as np

from fastconv._memory import Mapped
from fastconv.onnx.wire import Message, ModelError

# TensorProto.DataType. Types that NumPy has not are read as what they are stored in, and converted.
TYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
}
STRING, BFLOAT16 = 8, 16
# Which field holds the elements of types that are not float, double or int64 and not raw.
_FIELDS = {
    1: "float_data",
    7: "int64_data",
    11: "double_data",
    12: "uint64_data",
    13: "uint64_data",
}
_EXTERNAL = 1
MOST_AXES = 16


def array(tensor: Message, folder: Path | None) -> np.ndarray:
    """The array of a tensor, read-only. `folder` is the model's, for data in files of their own.

    ModelError: an unknown type, sizes that the data do not have, a file outside of the folder.
    """
    name = tensor.name or "a tensor"
    shape = _shape(tensor, name)
    if tensor.segment is not None:
        raise ModelError(f"{name} is in segments")
    if tensor.data_type == STRING:
        return _strings(tensor, shape, name)
    if tensor.data_type not in TYPES and tensor.data_type != BFLOAT16:
        raise ModelError(f"{name} has elements of type {tensor.data_type}, which is not supported")
    kind = TYPES.get(tensor.data_type, np.dtype("<u2"))
    if tensor.data_location == _EXTERNAL:
        data = _external(tensor, math.prod(shape) * kind.itemsize, folder, name)
    elif tensor.raw_data is not None:
        data = tensor.raw_data
    else:
        return _finished(_listed(tensor, kind, math.prod(shape), name).reshape(shape), tensor)
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ModelError(f"{name} of shape {shape} and type {kind} has {len(data)} bytes")
    return _finished(np.frombuffer(data, kind).reshape(shape), tensor)


def _shape(tensor: Message, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.dims.tolist())
    # a size of 0 makes no shape small for NumPy
    room = math.prod(max(size, 1) for size in shape)
    if len(shape) > MOST_AXES or min(shape, default=0) < 0 or room >= 1 << 59:
        raise ModelError(f"{name} has the shape {shape[:MOST_AXES]}")
    return shape


def _listed(tensor: Message, kind: np.dtype, size: int, name: str) -> np.ndarray:
    """Elements in a field of numbers; small types lie in int32_data, half floats as their bits."""
    numbers = getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))
    if numbers.size != size:
        raise ModelError(f"{name} should have {size} elements and has {numbers.size}")
    if kind == np.float16:
        return numbers.astype("<u2").view(kind)
    return numbers.astype(kind, copy=False)


def _finished(values: np.ndarray, tensor: Message) -> np.ndarray:
    if tensor.data_type == BFLOAT16:
        values = (values.astype("<u4") << 16).view("<f4")
    values.flags.writeable = False
    return values


def _strings(tensor: Message, shape: tuple[int, ...], name: str) -> np.ndarray:
    if len(tensor.string_data) != math.prod(shape):
        raise ModelError(f"{name} of shape {shape} has {len(tensor.string_data)} strings")
    try:
        texts = [str(text, "utf-8") for text in tensor.string_data]
    except UnicodeDecodeError:
        raise ModelError(f"{name} holds text that is not in UTF-8") from None
    return np.array(texts, object).reshape(shape)


def _external(tensor: Message, nbytes: int, folder: Path | None, name: str) -> memoryview:
    """So many bytes of a file beside the model, mapped."""
    keys = {entry.key: entry.value for entry in tensor.external_data}
    location = keys.get("location") or ""
    if folder is None:
        raise ModelError(
            f"{name} lies in a file of its own, {location!r}; open the model by its path"
        )
    offset, length = (_number(keys, key, name) for key in ("offset", "length"))
    length = nbytes if length is None else length
    if length != nbytes:
        raise ModelError(f"{name} needs {nbytes} bytes and is said to have {length}")
    file = open_inside(folder, location, name)
    with os.fdopen(file, "rb"):
        size = os.fstat(file).st_size
        if (offset or 0) + length > size:
            raise ModelError(f"{name} ends at {(offset or 0) + length}, {location!r} at {size}")
        if length == 0:
            return memoryview(b"")
        before = (offset or 0) % mmap.ALLOCATIONGRANULARITY
        mapped = Mapped.read_only(file, length + before, (offset or 0) - before)
    return memoryview(mapped)[before:]


def _number(keys: dict, key: str, name: str) -> int | None:
    text = keys.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ModelError(f"{name}: {key} is {text[:40]!r}")
    return int(text)


def open_inside(folder: Path, location: str, name: str) -> int:
    """A descriptor of an ordinary file at or below the folder, reached through no link of any kind.

    A model says where its weights lie; it must not make its user read another file. Every step of
    the path is opened from the last one without following links, so that nothing can be exchanged
    between a look and the opening. A file with two names (a hard link) may be another's.
    """
    steps = PurePosixPath(location).parts
    if (
        not steps
        or "\\" in location
        or "\0" in location
        or {"..", "/"} & set(steps)
        or steps[0][0] == "/"
    ):
        raise ModelError(f"{name} asks for the file {location!r}, outside of the model's folder")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if last else os.O_DIRECTORY)
            inner = os.open(step, flags, dir_fd=at)
            os.close(at)
            at = inner
        status = os.fstat(at)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ModelError(f"{name} asks for {location!r}, which is a link or no ordinary file")
        return at
    except OSError as error:
        os.close(at)
        raise ModelError(f"{name} asks for {location!r}: {error.strerror}") from None
    except ModelError:
        os.close(at)
        raise
