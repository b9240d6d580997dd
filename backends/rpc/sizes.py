"""Limits on gRPC requests, applied before they are parsed: both parsing and reading values hold the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from backends.errors import TooLarge
from backends.rpc.messages import MESSAGES
from backends.wire.request import MAX_JSON_BYTES

RAW_INPUT_CONTENTS: Final = (
    MESSAGES["ModelInferRequest"].DESCRIPTOR.fields_by_name["raw_input_contents"].number
)
MAX_FIELDS: Final = 10_000
"""Of a request beyond `MAX_JSON_BYTES`: walking millions of empty ones holds the event loop, too."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types of Protocol Buffers."""


def parser(name: str) -> Callable[[bytes], Any]:
    """A deserializer for the message ``name``, which returns TooLarge for what is not worth parsing."""
    parse = MESSAGES[name].FromString
    raw = RAW_INPUT_CONTENTS if name == "ModelInferRequest" else 0

    def deserialize(data: bytes) -> Any:
        if len(data) > MAX_JSON_BYTES and bytes_besides(raw, data) > MAX_JSON_BYTES:
            return TooLarge(
                f"the request has more than {MAX_JSON_BYTES} bytes besides raw_input_contents, "
                f"or more than {MAX_FIELDS} fields; send tensors there"
            )
        return parse(data)

    return deserialize


def bytes_besides(field: int, data: bytes) -> int:
    """Bytes of the message ``data`` apart from the contents of ``field``; it stops counting at the limit.

    All bytes if there are more than `MAX_FIELDS` fields.
    """
    place = besides = fields = 0
    try:
        while place < len(data) and besides <= MAX_JSON_BYTES:
            start = place
            fields += 1
            tag, place = _varint(data, place)
            number, kind = tag >> 3, tag & 7
            contents = 0
            if kind == _LENGTH:
                contents, place = _varint(data, place)
                place += contents
            elif kind == _VARINT:
                _, place = _varint(data, place)
            elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
                place += 8 if kind == _EIGHT_BYTES else 4
            else:  # groups, which these messages do not have
                return len(data)
            if fields > MAX_FIELDS:
                return len(data)
            besides += place - start - (contents if number == field else 0)
    except IndexError:
        pass  # not a message: the parser says so
    return besides


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at ``place``, and the place behind it. Raises IndexError where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise IndexError
