"""Protocol buffers' wire format: just enough to read and write a SentencePiece model.

A message is a row of fields: a tag (number and kind), then a varint, 4 or 8 bytes, or a length and so many bytes
(protobuf.dev/programming-guides/encoding). Knows no message.
"""

import struct
from collections.abc import Iterator

from fathom.errors import FathomError

VARINT, BYTES, FOUR = 0, 2, 5  # kinds of fields; 3 and 4, groups, are out of use
WIDTHS = {1: 8, FOUR: 4}  # bytes of those whose size is fixed


def read_fields(data: bytes, base: int = 0) -> Iterator[tuple[int, int | bytes, int]]:
    """(number, value, offset of the value) of each field; `base` is where the message lies in its file."""
    end = 0
    while (at := end) < len(data):
        tag, start = read_varint(data, at, base)
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            number, end = read_varint(data, start, base)
            yield field, number, base + start
            continue
        length, start = read_varint(data, start, base) if kind == BYTES else (WIDTHS.get(kind, -1), start)
        end = start + length
        if length < 0 or end > len(data):
            raise FathomError(f"offset {base + at}: not a field of a protocol buffer, or one cut short")
        yield field, data[start:end], base + start


def read_varint(data: bytes, at: int, base: int = 0) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, the lowest first, and the place after it."""
    if at < len(data) and data[at] < 128:
        return data[at], at + 1  # as almost all are
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise FathomError(f"offset {base + at}: a number of a protocol buffer is cut short or longer than 64 bits")


def varint(value: int) -> bytes:
    """`value`, 64 bits of it, as `read_varint` reads it; negative numbers as their two's complement."""
    value, found = value & (1 << 64) - 1, bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    """A field with a whole number or a truth."""
    return varint(field << 3 | VARINT) + varint(value)


def real(field: int, value: float) -> bytes:
    """A field with a float32."""
    return varint(field << 3 | FOUR) + struct.pack("<f", value)


def text(field: int, value: bytes) -> bytes:
    """A field with text, bytes or a message."""
    return varint(field << 3 | BYTES) + varint(len(value)) + value
