"""Protocol buffers' wire format, read without a compiler of schemas: bytes in, `Message` out.

A message is a sequence of fields, each a key (number and wire type, a varint) and a value: a varint,
4 or 8 bytes, or a length and so many bytes, which hold a string, another message or numbers in a
row. What a field means is in a schema (schema.py); fields that it does not have are skipped, as the
format asks of every reader (protobuf.dev, "Encoding").

The bytes may come from anyone. Every length is compared with what is left before it is used, nothing
is copied but small values, messages nest to a fixed depth, and whatever is wrong is a `ModelError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

# Deeper than any model that has no subgraphs; a hundred bytes could nest fifty messages.
DEEPEST = 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_NAMES = {_VARINT: "varint", _FIXED64: "8 bytes", _BYTES: "length and bytes", _FIXED32: "4 bytes"}
# The numbers of a row: type in memory, wire type of a single one.
_NUMBERS = {
    "int": (np.dtype("<i8"), _VARINT),
    "float": (np.dtype("<f4"), _FIXED32),
    "double": (np.dtype("<f8"), _FIXED64),
}

# kind of each field by its number: "int", "float", "double", "bytes", "string" or another message's
# name; with "*" after it the field may come many times.
Schema = Mapping[str, Mapping[int, tuple[str, str]]]


class ModelError(ValueError):
    """A model file that is damaged, that breaks a limit, or that asks for what is not supported."""


class DependsOnValues(ModelError):
    """A shape that the model computes from the values of its inputs, where only their shapes are known."""


class Message(SimpleNamespace):
    """The fields of a message by name. One that was not there is None, [] where it may come often."""


def read(schema: Schema, kind: str, data: memoryview, depth: int = 0) -> Message:
    """The message of this kind that fills `data`. Bytes and numbers in a row are views of it.

    ModelError: it does not end where it should, or a field is not of the schema's kind.
    """
    if depth > DEEPEST:
        raise ModelError(f"messages nest deeper than {DEEPEST}")
    fields = schema[kind]
    message = Message(**{name: [] if of.endswith("*") else None for name, of in fields.values()})
    for number, wire, value in _fields(data):
        if number in fields:
            name, of = fields[number]
            _put(schema, message, f"{kind}.{name}", of, wire, value, depth)
    for name, of in fields.values():
        if of.rstrip("*") in _NUMBERS and of.endswith("*"):
            _join(message, name, _NUMBERS[of[:-1]][0])
    return message


def _put(
    schema: Schema, message: Message, name: str, of: str, wire: int, value: Any, depth: int
) -> None:
    """One field's value into its message."""
    attribute, one = name.partition(".")[2], of.rstrip("*")
    if one in _NUMBERS:
        kind, single = _NUMBERS[one]
        if wire == _BYTES and of.endswith("*"):
            numbers = _varints(value) if one == "int" else _row(value, kind, name)
        elif wire == single:
            numbers = (
                np.array([value], "<u8").view(kind) if one == "int" else _row(value, kind, name)
            )
        else:
            raise ModelError(f"{name} is a {_NAMES[wire]}, not {one}")
        if of.endswith("*"):
            getattr(message, attribute).append(numbers)
        else:
            setattr(message, attribute, numbers[0].item())
        return
    if wire != _BYTES:
        raise ModelError(f"{name} is a {_NAMES[wire]}, not {one}")
    if one == "string":
        value = _text(value, name)
    elif one != "bytes":
        value = read(schema, one, value, depth + 1)
    if of.endswith("*"):
        getattr(message, attribute).append(value)
    else:
        setattr(message, attribute, value)


def _join(message: Message, name: str, kind: np.dtype) -> None:
    rows = getattr(message, name)
    setattr(
        message, name, rows[0] if len(rows) == 1 else np.concatenate([np.empty(0, kind), *rows])
    )


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) in turn; the value of a varint is unsigned."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in _NAMES:
            raise ModelError(f"there is no field {number} of wire type {wire}")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        else:
            length = 8 if wire == _FIXED64 else 4
        if length > end - at:
            raise ModelError(f"field {number} has {length} bytes, but {end - at} are left")
        yield number, wire, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first, as long as the eighth bit is set; and what follows."""
    value = 0
    for i in range(_LONGEST_VARINT):
        if at + i >= len(data):
            raise ModelError("the data end within a number")
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise ModelError(f"a number is longer than {_LONGEST_VARINT} bytes")


def _varints(data: memoryview) -> np.ndarray:
    """A row of varints as int64, without a Python loop over millions of them."""
    digits = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(digits < 0x80)
    if digits.size and (last.size == 0 or last[-1] != digits.size - 1):
        raise ModelError("the data end within a number")
    first = np.concatenate([[0], last[:-1] + 1]) if last.size else last
    if (last - first >= _LONGEST_VARINT).any():
        raise ModelError(f"a number is longer than {_LONGEST_VARINT} bytes")
    values = np.zeros(last.size, np.uint64)
    for i in range(int((last - first).max(initial=-1)) + 1):
        there = first + i <= last
        bits = digits[(first + i)[there]].astype(np.uint64) & np.uint64(0x7F)
        values[there] |= bits << np.uint64(7 * i)
    return values.view(np.int64)


def _row(data: memoryview, kind: np.dtype, name: str) -> np.ndarray:
    if len(data) % kind.itemsize:
        raise ModelError(f"{name} has {len(data)} bytes, no multiple of {kind.itemsize}")
    return np.frombuffer(data, kind)


def _text(data: memoryview, name: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{name} is not text in UTF-8") from None
