"""Arrays from the files in which trained networks are passed on: safetensors, npz, PyTorch's zip.

`load(path)` gives a dictionary of arrays by name, for `load_state_dict`. What a file is, is seen from
its bytes, not from its name. Stored arrays are mapped, not read: a file may be larger than memory.
Nothing a file contains is run: the pickle in a PyTorch file is interpreted here, by a machine that
knows dictionaries, lists, tuples, text, numbers and tensors. Every size and offset a file states is
compared with the file before it is used.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CheckpointError", "load"]

MOST_AXES = 32  # of an array; NumPy 1 has no more
# Where checkpoints of training put the state of the network, and what wrappers put before each name.
NESTS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


class CheckpointError(ValueError):
    """A file is damaged, is no checkpoint, or holds what is not read."""


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors, .npz, .pt or .pth file by name, read-only.

    float16 and bfloat16 become float32. A `state_dict` inside a dictionary is found, and a prefix
    `module.` that all names share is taken off. CheckpointError for files that are none of these or
    damaged, OSError for those that cannot be read.
    """
    with open(path, "rb") as file:
        try:
            arrays = _arrays(file)
        except CheckpointError as error:
            raise CheckpointError(f"{os.fspath(path)}: {error}") from error
        except (
            *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError),
            *(RecursionError, RuntimeError, TypeError, ValueError, zlib.error),
            *(struct.error, zipfile.BadZipFile),
        ) as error:
            raise CheckpointError(f"{os.fspath(path)} is damaged: {error}") from error
    if not arrays:
        raise CheckpointError(f"{os.fspath(path)} holds no arrays")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _arrays(file: io.BufferedReader) -> dict[str, np.ndarray]:
    if os.fstat(file.fileno()).st_size < 8:
        raise CheckpointError("too short for a checkpoint")
    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if data[:4] == b"PK\x03\x04":
        archive = _Archive(file, data)
        return _from_pytorch(archive) if archive.pickle else _from_npz(archive)
    if data[:1] == b"\x80":
        raise CheckpointError("a pickle (PyTorch before 1.6?): save it anew with a current PyTorch")
    if data[8:9] == b"{":
        return _from_safetensors(data)
    raise CheckpointError("neither safetensors nor npz nor a file of torch.save")


def _array(data: memoryview, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """The array that is `data`, whose length must be what shape and type say."""
    if len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(f"no shape of an array: {shape}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"{len(data)} bytes for an array of {dtype} and shape {shape}")
    return np.ndarray(shape, dtype, buffer=data, order=order)


def _widened(array: np.ndarray, is_bfloat16: bool = False) -> np.ndarray:
    """float32 of float16, and of bfloat16, which comes as its bits; read-only in any case."""
    if is_bfloat16:  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    array.flags.writeable = False
    return array


# safetensors --------------------------------------------------------------------------------------

_SAFETENSORS_TYPES = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2"},
    **{"I8": "i1", "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?"},
}


def _from_safetensors(data: memoryview) -> dict[str, np.ndarray]:
    """Eight bytes with the length of a header of JSON, the header, the arrays one after the other."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise CheckpointError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_unique)
    body = data[8 + length :]
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, (start, end) = entry["dtype"], entry["data_offsets"]
        if kind not in _SAFETENSORS_TYPES:
            raise CheckpointError(f"{name}: arrays of {kind} are not read")
        if not (type(start) is type(end) is int and 0 <= start <= end <= len(body)):
            raise CheckpointError(f"{name}: bytes {start} to {end} of {len(body)}")
        dtype = np.dtype(_SAFETENSORS_TYPES[kind]).newbyteorder("<")
        array = _array(body[start:end], dtype, tuple(entry["shape"]), "C")
        arrays[name] = _widened(array, kind == "BF16")
    return arrays


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise CheckpointError("a name stands twice in the header")
    return dict(pairs)


# Zip archives -------------------------------------------------------------------------------------


class _Archive:
    """The entries of a zip file, as parts of the mapped file where they are not compressed."""

    def __init__(self, file: io.BufferedReader, data: memoryview) -> None:
        self.zip = zipfile.ZipFile(file)
        self.data = data
        self.entries = {info.filename: info for info in self.zip.infolist()}
        pickles = [name for name in self.entries if name.rpartition("/")[2] == "data.pkl"]
        self.pickle = pickles[0] if pickles else None

    def __getitem__(self, name: str) -> memoryview:
        if name not in self.entries:
            raise CheckpointError(f"the archive has no entry {name}")
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED:
            with self.zip.open(info) as entry:
                content = entry.read(info.file_size)
        else:
            # A local header: 26 bytes, the lengths of name and extra field, these two, the content.
            start = info.header_offset
            lengths = struct.unpack("<HH", self.data[start + 26 : start + 30])
            start += 30 + sum(lengths)
            content = self.data[start : start + info.file_size]
        if len(content) != info.file_size:
            raise CheckpointError(f"{name} has {len(content)} of its {info.file_size} bytes")
        return memoryview(content)


_NPY_HEADER = re.compile(
    r"{\s*'descr':\s*([^:]*),\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(([0-9,\s]*)\),?\s*}\s*"
)


def _from_npz(archive: _Archive) -> dict[str, np.ndarray]:
    """Entries "name.npy": magic, version, the length of a header, the header, the array."""
    arrays = {}
    for name in archive.entries:
        if not name.endswith(".npy"):
            continue
        content = archive[name]
        if content[:6] != b"\x93NUMPY" or content[6] not in (1, 2, 3):
            raise CheckpointError(f"{name} is no array of NumPy's")
        start = 10 if content[6] == 1 else 12
        (length,) = struct.unpack("<H" if start == 10 else "<I", content[8:start])
        header = _NPY_HEADER.fullmatch(bytes(content[start : start + length]).decode("latin1"))
        if header is None:
            raise CheckpointError(f"{name} has a header that NumPy would not write")
        descr, fortran_order, shape = header.groups()
        if not re.fullmatch("'[<>|=][biuf][1248]'", descr):
            raise CheckpointError(f"{name}: arrays of {descr} are not read")
        shape = tuple(int(n) for n in shape.split(",") if n.strip())
        order = "F" if fortran_order == "True" else "C"
        array = _array(content[start + length :], np.dtype(descr[1:-1]), shape, order)
        arrays[name.removesuffix(".npy")] = _widened(array)
    return arrays


# PyTorch ------------------------------------------------------------------------------------------

_STORAGE_TYPES = {
    **{"DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "u2"},
    **{"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1"},
    **{"ByteStorage": "u1", "BoolStorage": "?"},
}


class _Name(NamedTuple):
    """A class or function that a pickle names. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Tensors:
    """What the pickle of a PyTorch file refers to: storages by key, and tensors as views of them."""

    def __init__(self, archive: _Archive) -> None:
        self.archive = archive
        self.folder = archive.pickle.removesuffix("data.pkl")
        order = f"{self.folder}byteorder"
        big = order in archive.entries and bytes(archive[order]) == b"big"
        self.byteorder = ">" if big else "<"
        self.storages = {}

    def storage(self, identity: tuple) -> np.ndarray:
        """The storage that a persistent id stands for: ("storage", type, key, device, elements)."""
        _, kind, key, _, count = identity
        _expect(kind, _Name), _expect(key, str), _expect(count, int)
        if key not in self.storages:
            if kind.name not in _STORAGE_TYPES:
                raise CheckpointError(f"tensors of {kind} are not read")
            dtype = np.dtype(_STORAGE_TYPES[kind.name]).newbyteorder(self.byteorder)
            content = self.archive[f"{self.folder}data/{key}"]
            array = _array(content, dtype, (count,), "C")
            self.storages[key] = _widened(array, kind.name == "BFloat16Storage")
        return self.storages[key]

    def tensor(self, storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_) -> Any:
        """torch._utils._rebuild_tensor_v2: offset and strides count elements of the storage."""
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
            raise CheckpointError("a tensor needs an offset, and as many sizes as strides")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if len(shape) > MOST_AXES or (0 not in shape and last >= storage.size):
            raise CheckpointError(
                f"a tensor of shape {shape} ends outside its {storage.size} values"
            )
        if 0 in shape:
            offset = 0
        steps = [s * storage.itemsize for s in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _from_pytorch(archive: _Archive) -> dict[str, np.ndarray]:
    tensors = _Tensors(archive)
    calls = {
        _Name("collections", "OrderedDict"): lambda: {},
        _Name("torch", "Size"): tuple,
        _Name("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        _Name("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        _Name("torch._utils", "_rebuild_tensor_v2"): tensors.tensor,
    }
    content = _unpickled(bytes(archive[archive.pickle]), calls, tensors.storage)
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    if not isinstance(content, dict):
        raise CheckpointError(f"no dictionary of tensors, but {type(content).__name__}")
    return {name: value for name, value in content.items() if isinstance(value, np.ndarray)}


def _unpickled(data: bytes, calls: dict[_Name, Callable], persistent: Callable) -> Any:
    """What a pickle describes, made of dictionaries, lists, tuples, text, numbers and `calls`.

    `pickletools` reads the opcodes; those that are listed here are carried out, any other ends it.
    Tuples may hold one another in ways that take for ever to hash or to print, so that neither is
    done to anything before its type is known.
    """
    import pickletools  # slow to import

    stack, marks, memo = [], [], {}

    def above_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING" | "BINUNICODE8":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"D": {}, "L": [], "T": ()}[opcode.name[6]])
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[5])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _expect(stack[-1], list).append(item)
            case "APPENDS":
                items = above_mark()
                _expect(stack[-1], list).extend(items)
            case "SETITEM":
                key, value = stack.pop(-2), stack.pop()
                _expect(stack[-1], dict)[_expect(key, (str, int))] = value
            case "SETITEMS":
                items = iter(above_mark())
                pairs = {_expect(key, (str, int)): value for key, value in _pairs(items)}
                _expect(stack[-1], dict).update(pairs)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_Name(*argument.split(" ")))
            case "STACK_GLOBAL":
                stack[-2:] = [_Name(*(_expect(part, str) for part in stack[-2:]))]
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "REDUCE":
                name, arguments = stack.pop(-2), stack.pop()
                if _expect(name, _Name) not in calls:
                    raise CheckpointError(f"wants {name}; only tensors are read: save a state_dict")
                stack.append(calls[name](*arguments))
            case "BUILD":  # the attributes of a dictionary, such as the _metadata of a state_dict
                stack.pop()
                _expect(stack[-1], dict)
            case other:
                raise CheckpointError(f"the pickle does {other}; only tensors are read")
    raise CheckpointError("the pickle has no end")


def _expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"the pickle treats a {type(value).__name__} as what it is not")
    return value


def _pairs(items: Iterator) -> Iterator[tuple]:
    return zip(items, items, strict=True)
