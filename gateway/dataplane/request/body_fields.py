"""What a decision may read of a request beyond its head: cookies, the query, the JSON body.

Nothing here raises for anything that a client wrote but `TurnoutError`: what can't be read is absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from gateway.dataplane.request.json_body import MODEL, JsonBody, Keys, scalar_at
from gateway.dataplane.request.routing import meets
from gateway.dataplane.snapshot import RoutePlan
from gateway.errors import TurnoutError

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange

LOOP_BYTES: Final = 16_384
LOOP_FIELDS: Final = 128
"""A JSON body of up to so many bytes and colons is read on the event loop: a quarter of a millisecond at most."""


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
    return len(data) <= LOOP_BYTES and data.count(b":") <= LOOP_FIELDS


def wanted(routes: Sequence[RoutePlan]) -> list[Keys]:
    """Where the rules of ``routes`` look in a JSON body."""
    found: list[Keys] = [(MODEL,)]
    for route in routes:
        if route.unit is not None and route.unit[0] == "json":
            found.append(_keys(route.unit[1]))
        if route.sight is not None:
            found.extend(keys for _, header, keys in route.sight.sources if header is None)
    return found


def json_value(body: JsonBody, path: bytes) -> bytes | None:
    """The scalar at a dotted path of a JSON body, as text; None if there is none."""
    value = scalar_at(body.fields, _keys(path))
    if value is None or isinstance(value, bool):
        return None
    return str(value).encode("utf-8", "surrogatepass") or None


def _keys(path: bytes) -> Keys:
    return tuple(path.decode().split("."))


def choose_route(exchange: Exchange, body: JsonBody) -> RoutePlan:
    """The route, now that the body is known: the first candidate whose model (if it asks for one) is the body's.

    Raises TurnoutError.
    """
    head = exchange.head
    candidates = exchange.client.snapshot.candidates(head.path)
    if all(c.condition is None or not c.condition.models for c in candidates):
        return exchange.route
    model = scalar_at(body.fields, (MODEL,))
    for route in candidates:
        condition = route.condition
        if condition is None or (
            meets(condition, head) and (not condition.models or model in condition.models)
        ):
            head.admit(route.name)
            return route
    if not isinstance(model, str):
        raise TurnoutError(
            "unknown_route", "The routes here go by the model; send a JSON body that names one."
        )
    raise TurnoutError("unknown_route", f"No route serves the model {model[:64]!r}.")
