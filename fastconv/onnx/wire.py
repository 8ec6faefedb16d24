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
from typing import Any

import numpy as np

# Deeper than any model that has no subgraphs; a hundred bytes could nest fifty messages.
DEEPEST = 32
# A node with its attributes is five or so, and two bytes can be one, of which Python makes a few hundred.
MOST_MESSAGES = 500_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_LONG = 64  # numbers
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


class Message:
    """The fields of a message by name. One that was not there is None, or empty where it may come often."""

    def __init__(self, fields: Mapping[int, tuple[str, str]]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        for field, of in self._fields.values():
            if field == name:
                return _empty(of)
        raise AttributeError(name)


def _empty(of: str) -> Any:
    if not of.endswith("*"):
        return None
    return np.empty(0, _NUMBERS[of[:-1]][0]) if of[:-1] in _NUMBERS else []


def read(schema: Schema, kind: str, data: memoryview) -> Message:
    """The message of this kind that fills `data`. Bytes and long rows of numbers are views of it.

    ModelError: it does not end where it should, a field is not of the schema's kind, or messages in it
    are too many or nest too deep.
    """
    return _Reader(schema).read(kind, data, 0)


class _Reader:
    """Reads a message and those in it, and counts them."""

    def __init__(self, schema: Schema) -> None:
        self._schema, self._left = schema, MOST_MESSAGES

    def read(self, kind: str, data: memoryview, depth: int) -> Message:
        self._left -= 1
        if self._left < 0:
            raise ModelError(f"there are more than {MOST_MESSAGES} messages")
        if depth > DEEPEST:
            raise ModelError(f"messages nest deeper than {DEEPEST}")
        fields = self._schema[kind]
        message, rows = Message(fields), {}
        values = vars(message)
        for number, wire, value in _fields(data):
            if number not in fields:
                continue
            name, of = fields[number]
            one, where = of.rstrip("*"), f"{kind}.{name}"
            if one not in _NUMBERS:
                value = self._text_or_message(where, one, wire, value, depth)
                if one == of:
                    values[name] = value
                else:
                    values.setdefault(name, []).append(value)
            elif one == of:
                values[name] = _number(where, one, wire, value)
            else:
                rows.setdefault(name, _Row(one)).add(where, wire, value)
        values |= {name: row.array() for name, row in rows.items()}
        return message

    def _text_or_message(self, where: str, one: str, wire: int, value: Any, depth: int) -> Any:
        if wire != _BYTES:
            raise ModelError(f"{where} is a {_NAMES[wire]}, not {one}")
        if one == "bytes":
            return value
        return _text(value, where) if one == "string" else self.read(one, value, depth + 1)


def _number(where: str, one: str, wire: int, value: Any) -> int | float:
    kind, single = _NUMBERS[one]
    if wire != single:
        raise ModelError(f"{where} is a {_NAMES[wire]}, not {one}")
    if wire == _VARINT:
        return value - (value >> 63 << 64)
    return np.frombuffer(value, kind)[0].item()


class _Row:
    """The numbers of a field that comes often. Long rows stay where they lie; the others lie together,
    for a number may take two bytes in the file and an array takes a hundred.
    """

    def __init__(self, one: str) -> None:
        self._one, (self._kind, self._single) = one, _NUMBERS[one]
        self._pieces: list[Any] = []

    def add(self, where: str, wire: int, value: Any) -> None:
        if wire == _BYTES:
            row = _varints(value) if self._one == "int" else _row(value, self._kind, where)
        elif wire == self._single:
            row = value.to_bytes(8, "little") if wire == _VARINT else value
        else:
            raise ModelError(f"{where} is a {_NAMES[wire]}, not {self._one}")
        if len(row) >= _LONG:
            self._pieces.append(row)
        else:
            if not self._pieces or type(self._pieces[-1]) is not bytearray:
                self._pieces.append(bytearray())
            self._pieces[-1] += memoryview(row)

    def array(self) -> np.ndarray:
        arrays = [np.frombuffer(piece, self._kind) for piece in self._pieces if len(piece)]
        return arrays[0] if len(arrays) == 1 else np.concatenate([_empty(self._one + "*"), *arrays])


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
