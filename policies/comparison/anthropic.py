"""Anthropic's messages: whole, or streams put together.

Compared are the blocks of content and why the model stopped; ids, signatures, usage and the model's name are the
server's own.
"""

from __future__ import annotations

from typing import Final

from policies.comparison.bodies import Json, Malformed, dictionary, sequence
from policies.comparison.openai import arguments, event_type, raise_error
from policies.comparison.pieces import Assembly, without

_EVENTS: Final = frozenset({"message_start", "content_block_start", "content_block_delta", "message_delta"})
_OWN: Final = frozenset({"id", "tool_use_id", "signature", "encrypted_content", "encrypted_index", "data"})
"""Members of a block, a citation or a search result that are the server's own; ``data``: reasoning, encrypted."""


def recognises(documents: list[Json]) -> bool:
    return _is_message(documents[0]) or any(event_type(document) in _EVENTS for document in documents)


def _is_message(document: Json) -> bool:
    known = dictionary(document)
    return known.get("type") == "message" and isinstance(known.get("content"), list)


def put_together(documents: list[Json]) -> dict[str, Json]:
    """The whole message, in the shape of one that was not streamed. Raises Malformed."""
    for document in documents:
        raise_error(document)
    if _is_message(documents[0]):
        return dictionary(documents[0])
    message: dict[str, Json] = {}
    blocks: dict[int, Assembly] = {}
    for event in map(dictionary, documents):
        message |= dictionary(event.get("message")) | without(
            event.get("delta") if "index" not in event else {}
        )
        index = event.get("index")
        if type(index) is int:
            block = blocks.setdefault(index, Assembly())
            block.add(dictionary(event.get("content_block")))
            block.add(_delta(dictionary(event.get("delta"))))
    if not message:
        raise Malformed("the response has no message")
    return message | {"content": [_block(blocks[index].whole()) for index in sorted(blocks)]}


def _delta(delta: dict[str, Json]) -> dict[str, Json]:
    """What an event adds to its block, whose type is known already."""
    known = without(delta, ("type",))
    if "citation" in known:
        return {"citations": [known["citation"]]}
    return known


def _block(block: dict[str, Json]) -> dict[str, Json]:
    streamed = block.pop("partial_json", None)
    return block | ({"input": arguments(streamed)} if streamed else {})


def content(message: dict[str, Json]) -> dict[str, Json]:
    """What of a whole message counts."""
    kept = without({key: message.get(key) for key in ("stop_reason", "stop_sequence")})
    return kept | {"content": [_counts(block) for block in sequence(message.get("content"))]}


def _counts(block: Json) -> Json:
    kept = without(block, _OWN)
    for group in ("citations", "content"):
        if isinstance(kept.get(group), list):
            kept[group] = [without(part, _OWN) for part in kept[group]]
    return kept
