"""Spans in the protobuf encoding of OTLP, written by hand.

https://github.com/open-telemetry/opentelemetry-proto, version 1: the numbers below are of its
``trace/v1/trace.proto`` and ``collector/trace/v1/trace_service.proto``, which promise not to change. Written by
hand because a traced request has two spans of some twenty attributes: to build and encode one takes 85 µs with the
OpenTelemetry SDK, 47 with protobuf's own classes and 13 like this, with what is alike between requests encoded once
(the least of 300 measurements, all three in turn); the whole request takes a hundred. The tests read everything back
with the published classes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans."""
ERROR: Final = b"\x7a\x02\x18\x02"
"""Field 15 of a span: a status with code 2. Without it the status is unset."""

Value = str | bool | int | float

_DOUBLE: Final = struct.Struct("<d").pack
_TIMES: Final = struct.Struct("<BQBQ").pack
_TIME: Final = struct.Struct("<BQ").pack
_FLAGS: Final = struct.Struct("<BBI").pack
_LINK_FLAGS: Final = struct.Struct("<BI").pack
_ONE_BYTE: Final = tuple(bytes((n,)) for n in range(128))


def varint(number: int) -> bytes:
    """A number of 0 to 2**64 - 1."""
    if number < 128:
        return _ONE_BYTE[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(tag: bytes, content: bytes) -> bytes:
    """A field with a length: text, bytes or a message. ``tag``: number · 8 + 2, as a varint."""
    return tag + varint(len(content)) + content


def key(name: str) -> bytes:
    """The name of an attribute made ready for `text`, `number` and `real`."""
    return field(b"\x0a", name.encode())


def text(name: bytes, value: bytes) -> bytes:
    """An attribute of a span. ``value``: UTF-8. The short way is for what fits into lengths of one byte."""
    size = len(value)
    if size + len(name) < 120:
        return b"\x4a%c%b\x12%c\x0a%c%b" % (size + len(name) + 4, name, size + 2, size, value)
    return field(b"\x4a", name + field(b"\x12", field(b"\x0a", value)))


def number(name: bytes, value: int) -> bytes:
    """An attribute of a span; signed, 64 bits. ``name`` has fewer than 100 bytes."""
    content = varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    return b"\x4a%c%b\x12%c\x18%b" % (len(name) + len(content) + 3, name, len(content) + 1, content)


def real(name: bytes, value: float) -> bytes:
    """An attribute of a span. ``name`` has fewer than 100 bytes."""
    return b"\x4a%c%b\x12\x09\x21%b" % (len(name) + 11, name, _DOUBLE(value))


def attribute(name: str, value: Value, tag: bytes = b"\x4a") -> bytes:
    """A KeyValue, as an attribute of a span (field 9) or of what has it under another ``tag``."""
    if isinstance(value, str):
        any_value = field(b"\x0a", value.encode("utf-8", "replace"))
    elif isinstance(value, bool):
        any_value = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        any_value = b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    else:
        any_value = b"\x21" + _DOUBLE(value)
    return field(tag, key(name) + field(b"\x12", any_value))


def attributes(values: Iterable[tuple[str, Value]], tag: bytes = b"\x4a") -> bytes:
    return b"".join(attribute(name, value, tag) for name, value in values)


def event(name: bytes, nanoseconds: int) -> bytes:
    """Field 11 of a span: something that happened during it. ``name`` has fewer than 100 bytes."""
    return b"\x5a%c%b\x12%c%b" % (len(name) + 11, _TIME(0x09, nanoseconds), len(name), name)


def link(trace_id: bytes, span_id: bytes, flags: int, state: bytes = b"") -> bytes:
    """Field 13 of a span: another one that it has to do with."""
    content = b"\x0a\x10" + trace_id + b"\x12\x08" + span_id + _LINK_FLAGS(0x35, flags)
    return field(b"\x6a", content + field(b"\x1a", state) if state else content)


def span(
    *,
    trace_id: bytes,
    span_id: bytes,
    parent: bytes,
    state: bytes,
    name: bytes,
    kind: int,
    begun: int,
    ended: int,
    flags: int,
    rest: Sequence[bytes],
) -> bytes:
    """One span. Times are nanoseconds since the epoch; ``rest``: its attributes, events, links, status."""
    content = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span_id,
            field(b"\x1a", state) if state else b"",
            b"\x22\x08" + parent if parent else b"",
            field(b"\x2a", name),
            b"\x30",
            _ONE_BYTE[kind],
            _TIMES(0x39, begun, 0x41, ended),
            *rest,
            _FLAGS(0x85, 0x01, flags),
        )
    )
    return field(b"\x12", content)  # field 2 of ScopeSpans


def request(resource: bytes, scope: bytes, spans: Sequence[bytes]) -> bytes:
    """An ExportTraceServiceRequest. ``resource``, ``scope``: see `resource` and `scope`."""
    return field(b"\x0a", resource + field(b"\x12", scope + b"".join(spans)))


def resource(values: Iterable[tuple[str, Value]]) -> bytes:
    """Field 1 of ResourceSpans: what the spans come from."""
    return field(b"\x0a", attributes(values, b"\x0a"))


def scope(name: str, version: str) -> bytes:
    """Field 1 of ScopeSpans: the code that made them."""
    return field(b"\x0a", field(b"\x0a", name.encode()) + field(b"\x12", version.encode()))


def rejected(answer: bytes) -> tuple[int, str]:
    """What an ExportTraceServiceResponse says: how many spans were not taken, and why. (0, "") for anything else."""
    for tag, content in _fields(answer):
        if tag == 0x0A and isinstance(content, bytes):
            number, why = 0, ""
            for inner, value in _fields(content):
                if inner == 0x08 and isinstance(value, int):
                    number = value
                elif inner == 0x12 and isinstance(value, bytes):
                    why = value.decode("utf-8", "replace")
            return number, why
    return 0, ""


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """(tag, value) of the varints and length-delimited fields of a message, up to whatever is not one."""
    found: list[tuple[int, int | bytes]] = []
    place = 0
    try:
        while place < len(message):
            tag, place = _number(message, place)
            value, place = _number(message, place)
            if tag & 7 == 2:
                if place + value > len(message):
                    break
                found.append((tag, message[place : place + value]))
                place += value
            elif tag & 7 == 0:
                found.append((tag, value))
            else:
                break
    except IndexError:
        pass
    return found


def _number(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
        if shift > 63:
            raise IndexError("no varint is this long")
