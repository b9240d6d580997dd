"""The items of ``POST /-/feedback`` as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from gateway.ingest.metric_values import RejectedItem

MAX_TAG_BYTES: Final = 1024
"""Size of the tags of one item, as JSON."""
_FIELDS: Final = frozenset({"decision_id", "metric", "value", "tags"})
_FIELDS_BY_REQUEST: Final = frozenset({"route", "request_id", "metric", "value", "tags"})


def named_request(item: object) -> tuple[str, str]:
    """Route and request id of an item; empty if they are not text."""
    assert isinstance(item, Mapping)
    route, identity = item.get("route"), item.get("request_id")
    return (route, identity) if isinstance(route, str) and isinstance(identity, str) else ("", "")


def item_parts(item: object) -> tuple[str, str, object, str]:
    """Id, metric, value and tags (as canonical JSON) of an item. Raises RejectedItem."""
    if not isinstance(item, Mapping):
        raise RejectedItem("invalid", "An item is a JSON object with decision_id, metric and value.")
    by_request = "request_id" in item
    fields = _FIELDS_BY_REQUEST if by_request else _FIELDS
    unknown = next((key for key in item if key not in fields), None)
    if unknown is not None:
        raise RejectedItem(
            "invalid", f"{unknown!r} is not a field of an item; its fields are {', '.join(sorted(fields))}."
        )
    identity, name = item.get("request_id" if by_request else "decision_id"), item.get("metric")
    if not isinstance(identity, str) or not isinstance(name, str) or "value" not in item:
        raise RejectedItem(
            "invalid", "An item needs decision_id and metric, both text, and value (null retracts)."
        )
    return identity, name, item["value"], _tags(item.get("tags"))


def _tags(given: object) -> str:
    """Tags as canonical JSON; "" if absent."""
    if given is None or given == {}:
        return ""
    plain = isinstance(given, dict) and all(isinstance(v, str | int | float | bool) for v in given.values())
    try:
        text = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        plain = False
    if not plain:
        raise RejectedItem("invalid", "Tags are a JSON object of texts, numbers and booleans.")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TAG_BYTES:
        raise RejectedItem("invalid", f"The tags are too long; send at most {MAX_TAG_BYTES} bytes.")
    return text
