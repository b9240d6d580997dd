"""What a decision may read of a request beyond its head: cookies, the query, the JSON body."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from gateway.dataplane.routing import meets
from gateway.dataplane.snapshot import RoutePlan
from gateway.errors import TurnoutError

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange
    from gateway.dataplane.worker import Worker


def cookie(field: bytes, name: bytes) -> bytes | None:
    """The value of one cookie of a Cookie field."""
    for pair in field.split(b";"):
        key, found, value = pair.strip().partition(b"=")
        if found and key == name:
            return value or None
    return None


def query_value(target: bytes, name: bytes) -> bytes | None:
    """The first value of one query parameter, decoded."""
    query = target.partition(b"?")[2]
    if name not in query and b"%" not in query:
        return None
    for key, value in parse_qsl(query, max_num_fields=1000):
        if key == name:
            return value or None
    return None


def parse(chunks: Sequence[bytes]) -> Any:
    """The JSON document in a body; None where it is none: a rule on the body does not make it invalid."""
    try:
        return json.loads(b"".join(chunks))
    except (ValueError, RecursionError):
        return None


def json_value(chunks: Sequence[bytes], path: bytes) -> bytes | None:
    """The scalar at a dotted path of a JSON body, as text; None where there is none."""
    value = parse(chunks)
    for key in path.decode().split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return None
    return str(value).encode() or None


def choose_route(exchange: Exchange, worker: Worker) -> RoutePlan:
    """The route, now that the body is known: the first candidate whose model (if it asks for one) is the body's.

    Raises TurnoutError.
    """
    head = exchange.head
    candidates = exchange.client.snapshot.candidates(head.path)
    if all(c.condition is None or not c.condition.models for c in candidates):
        return exchange.route
    document = parse(exchange.chunks)
    model = document.get("model") if isinstance(document, dict) else None
    for route in candidates:
        condition = route.condition
        if condition is None or (
            meets(condition, head) and (not condition.models or model in condition.models)
        ):
            head.admit(route.name)
            return route
    known = sorted({m for c in candidates if c.condition for m in c.condition.models})
    raise TurnoutError("unknown_route", f"No route serves the model {model!r}; known: {', '.join(known)}.")


def with_model(chunks: Sequence[bytes], model: str) -> bytes | None:
    """The body with another ``model``; None if it is no JSON object."""
    document = parse(chunks)
    if not isinstance(document, dict):
        return None
    document["model"] = model
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
