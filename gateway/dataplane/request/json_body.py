"""Reading a JSON body: the fields that rules look at, and where its `model` stands.

A body is never written again: another model's name is put in the place of the client's, and every other byte stays.
Nothing here raises for anything that a client wrote; what is not a JSON object has no fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple

MODEL: Final = "model"
Keys = tuple[str, ...]
"""The way to a value through nested objects."""

_FIELD: Final = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)("?)')
_COLON: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT: Final = re.compile(r"[ \t\n\r]*([,}])")
_OPEN: Final = re.compile(r"\ufeff?[ \t\n\r]*\{")
_EMPTY: Final = re.compile(r"[ \t\n\r]*\}")
_END: Final = re.compile(r"[ \t\n\r]*")
_scan: Final[Callable[[str, int], tuple[Any, int]]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class JsonBody(NamedTuple):
    """What a body says, as far as rules need it."""

    fields: dict[str, Any]
    """Of the object at the top; of two with one name the last counts."""
    insert_at: int
    """Byte offset at which a first field may be put; 0 if the body is not a JSON object."""
    empty: bool = True
    """Whether the object has no field."""
    models: int = 0
    """How often `model` stands there."""
    span: tuple[int, int] = (0, 0)
    """Byte range of its (last) value."""
    bare_stream: bool = False
    """Whether `stream` is true, without `stream_options`."""


NO_BODY: Final = JsonBody({}, 0)


def read(data: bytes) -> JsonBody:
    """The object in ``data`` (UTF-8); `NO_BODY` if there is none."""
    try:
        return _read(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError, StopIteration):
        return NO_BODY


def read_scalars(data: bytes, wanted: Collection[Keys]) -> JsonBody:
    """Like `read`, but with the text, numbers and booleans at ``wanted`` alone: little to hand to another process."""
    body = read(data)
    fields: dict[str, Any] = {}
    for keys in wanted:
        value = scalar_at(body.fields, keys)
        if value is not None:
            inner = fields
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})
            inner[keys[-1]] = value
    return body._replace(fields=fields)


def scalar_at(fields: Any, keys: Keys) -> str | float | bool | None:
    """The scalar at the end of ``keys``; None if there is none."""
    for key in keys:
        if not isinstance(fields, dict):
            return None
        fields = fields.get(key)
    return fields if isinstance(fields, str | float | int | bool) else None


def with_model(data: bytes, body: JsonBody, model: str) -> bytes:
    """``data`` with ``model`` as its `model`; unchanged if it is not a JSON object."""
    if not body.insert_at:
        return data
    value = json.dumps(model).encode()
    if body.models:
        return b"".join((data[: body.span[0]], value, data[body.span[1] :]))
    at, comma = body.insert_at, b"" if body.empty else b","
    return b"".join((data[:at], b'"model":', value, comma, data[at:]))


def with_usage(data: bytes, body: JsonBody) -> bytes:
    """``data``, whose ``body`` is a `bare_stream`, with the wish for token counts at the end of the stream."""
    at = body.insert_at
    return b"".join((data[:at], b'"stream_options":{"include_usage":true},', data[at:]))


def _read(text: str) -> JsonBody:
    opened = _OPEN.match(text)
    if opened is None:
        return NO_BODY
    fields: dict[str, Any] = {}
    models, span = 0, (0, 0)
    at = insert_at = opened.end()
    empty = _EMPTY.match(text, at)
    if empty is not None:
        at = empty.end()
    while empty is None:
        key, at = _key(text, at)
        fields[key], end = _scan(text, at)
        if key == MODEL:
            models, span = models + 1, (at, end)
        following = _match(_NEXT, text, end)
        at = following.end()
        if following[1] == "}":
            break
    if _match(_END, text, at).end() != len(text):
        return NO_BODY
    if not text.isascii():
        insert_at, span = _bytes(text, insert_at), (_bytes(text, span[0]), _bytes(text, span[1]))
    bare_stream = fields.get("stream") is True and "stream_options" not in fields
    return JsonBody(fields, insert_at, not fields, models, span, bare_stream)


def _key(text: str, at: int) -> tuple[str, int]:
    """A field's name, and where its value begins."""
    name = _match(_FIELD, text, at)
    if name[2]:
        key, end = name[1], name.end()
    else:  # it has escapes
        key, end = scanstring(text, name.start(1), True)
    return key, _match(_COLON, text, end).end()


def _match(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str]:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError("this is not JSON")
    return found


def _bytes(text: str, place: int) -> int:
    return len(text[:place].encode("utf-8", "surrogatepass"))
