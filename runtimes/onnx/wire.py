"""Protocol buffers as they lie in a file: a message is a list of its fields, in order.

What a field means is its reader's affair; what nobody asks for goes back as it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BITS = 63


class Field(NamedTuple):
    """A field's number, its kind on the wire, and its bytes; a varint's as they were written."""

    number: int
    kind: int
    content: bytes

    @property
    def text(self) -> str:
        """The content of a string."""
        return self.content.decode()


def text(number: int, content: str) -> Field:
    """A field that is a string."""
    return Field(number, _BYTES, content.encode())


def message(number: int, fields: Iterable[Field]) -> Field:
    """A field that is a message."""
    return Field(number, _BYTES, written(fields))


def whole(number: int, value: int) -> Field:
    """A field that is an integer of 0 or more."""
    return Field(number, _VARINT, _varint(value))


def read(data: bytes) -> list[Field]:
    """The fields of a message.

    Raises:
        ValueError: it ends in the middle of a field, or is no message.
    """
    found, place = [], 0
    while place < len(data):
        key, place = _number(data, place)
        kind, start = key & 7, place
        if kind == _VARINT:
            _, place = _number(data, place)
        elif kind == _BYTES:
            length, start = _number(data, place)
            place = start + length
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if place > len(data):
            raise ValueError("the end is missing")
        found.append(Field(key >> 3, kind, data[start:place]))
    return found


def written(fields: Iterable[Field]) -> bytes:
    """The message of these fields."""
    pieces = []
    for number, kind, content in fields:
        pieces.append(_varint(number << 3 | kind))
        if kind == _BYTES:
            pieces.append(_varint(len(content)))
        pieces.append(content)
    return b"".join(pieces)


def _number(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift <= _MOST_BITS:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("a number without an end")


def _varint(value: int) -> bytes:
    pieces = bytearray()
    while value > 127:
        pieces.append(value & 127 | 128)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)
