"""What a decision may read of a request beyond its head: cookies, the query, the JSON body.

Nothing here raises for anything that a client wrote: what can't be read is absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.dataplane.request.json_body import MODEL, JsonBody, Keys, scalar_at
from gateway.dataplane.snapshot import RoutePlan

MAX_LOOP_BYTES: Final = 16_384
MAX_LOOP_FIELDS: Final = 128
"""A JSON body of at most this many bytes and colons is read on the event loop, in a quarter of a millisecond."""


def cookie(field: bytes, name: bytes) -> bytes | None:
    """The value of one cookie of a Cookie field."""
    found = _cookie(name).search(field)
    return found[1].strip() or None if found is not None else None


@lru_cache(maxsize=256)
def _cookie(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?:^|;)[ \t]*%b=([^;]*)" % re.escape(name))


def query_value(target: bytes, name: bytes) -> bytes | None:
    """The first value of one query parameter, decoded; an empty one is none."""
    found = _parameter(name).search(target)
    return unquote_to_bytes(found[1].replace(b"+", b" ")) if found is not None else None


@lru_cache(maxsize=256)
def _parameter(name: bytes) -> re.Pattern[bytes]:
    """Finds ``name`` with any of its bytes percent-encoded, in one pass over the target."""
    spelled = b"".join(
        b"(?:%b%b|%%(?i:%02x))" % (re.escape(bytes((byte,))), rb"|\+" if byte == 0x20 else b"", byte)
        for byte in name
    )
    return re.compile(rb"[?&]%b=([^&]+)" % spelled)


def quick_to_read(data: bytes) -> bool:
    """Whether ``data`` may be read on the event loop."""
    return len(data) <= MAX_LOOP_BYTES and data.count(b":") <= MAX_LOOP_FIELDS


def wanted(routes: Sequence[RoutePlan]) -> list[Keys]:
    """Where the rules of ``routes`` look in a JSON body."""
    keys: list[Keys] = [(MODEL,)]
    for route in routes:
        if route.unit is not None and route.unit.kind == "json":
            keys.append(_keys(route.unit.name))
        extractor = route.table.extractor
        if extractor is not None:
            keys.extend(path for _, header, path in extractor.sources if header is None)
    return keys


def json_value(body: JsonBody, path: bytes) -> bytes | None:
    """The scalar at a dotted path of a JSON body, as text; None if there is none."""
    value = scalar_at(body.fields, _keys(path))
    if value is None or isinstance(value, bool):
        return None
    return str(value).encode("utf-8", "surrogatepass") or None


def _keys(path: bytes) -> Keys:
    return tuple(path.decode().split("."))
