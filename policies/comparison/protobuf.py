"""Fields of a Protocol Buffers message without its schema, and the messages of a gRPC body."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from policies.comparison.bodies import MAX_BODY_BYTES, Beyond, Malformed, inflate

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_FIXED: Final = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10
PREFIX_BYTES: Final = 5
"""Of a gRPC message: whether it is compressed, and its length."""

Value = int | bytes


def fields(data: bytes) -> Iterator[tuple[int, int, Value]]:
    """Yields (number, wire type, value): a varint's value, or the bytes of any other. Raises Malformed."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise Malformed(f"the message has a field of wire type {kind}")
        if size > len(data) - at:
            raise Malformed("the message ends within a field")
        yield number, kind, data[at : at + size]
        at += size


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends. Raises Malformed."""
    if at < len(data) and data[at] < 0x80:  # most are: what follows takes five times as long
        return data[at], at + 1
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at
    raise Malformed("the message has a number that does not end")


def varints(values: list[tuple[int, Value]]) -> list[int]:
    """The numbers of a repeated field, packed or not; ``values``: its (wire type, value) pairs. Raises Malformed."""
    found: list[int] = []
    for _, value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = varint(value, at)
            found.append(number)
    return found


def signed(value: int) -> int:
    """A varint of an int32 or int64, which is 64 bits in two's complement."""
    return value - (1 << 64) if value >> 63 else value


def messages(body: bytes) -> Iterator[bytes]:
    """Yields the messages of a gRPC body, decompressed. Raises Malformed."""
    at, left = 0, MAX_BODY_BYTES
    while at < len(body):
        size = int.from_bytes(body[at + 1 : at + PREFIX_BYTES], "big")
        end = at + PREFIX_BYTES + size
        if end > len(body) or body[at] > 1:
            raise Malformed("the body is not whole messages of gRPC")
        message = body[at + PREFIX_BYTES : end]
        if body[at]:
            message = inflate(message, "gzip")
            left -= len(message)
            if left < 0:  # of all together: a thousand small messages may each unfold to the limit
                raise Beyond(f"the messages are larger than {MAX_BODY_BYTES} bytes")
        yield message
        at = end
