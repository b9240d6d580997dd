"""OpenAI's APIs: chat and text completions, responses, embeddings; whole, or streams put together.

Compared is what a client shows or acts upon: text, refusals, reasoning, tool calls with their arguments as JSON,
why the model stopped, vectors. Ids, times, token counts, log probabilities and the model's name are the
server's own.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import numpy as np

from policies.comparison.bodies import Json, Malformed, dictionary, parse_json, sequence
from policies.comparison.pieces import Assembly, without

_NOTHING: Final = "the response has no choices, no output and no embeddings"


def recognises(documents: list[Json]) -> bool:
    first = documents[0]
    return (
        any(isinstance(dictionary(document).get("choices"), list) for document in documents)
        or _is_response(first)
        or any(event_type(document).startswith("response.") for document in documents)
        or (len(documents) == 1 and _is_embeddings(first))
    )


def put_together(documents: list[Json]) -> dict[str, Json]:
    """The whole response, in the shape of one that was not streamed. Raises Malformed."""
    for document in documents:
        raise_error(document)
    if any(isinstance(dictionary(document).get("choices"), list) for document in documents):
        return _completion(documents)
    if any(event_type(document).startswith("response.") for document in documents):
        return _response(documents)
    if _is_response(documents[0]) or _is_embeddings(documents[0]):
        return dictionary(documents[0])
    raise Malformed(_NOTHING)


def content(document: dict[str, Json]) -> dict[str, Json]:
    """What of a whole response counts. Raises Malformed."""
    choices = document.get("choices")
    if isinstance(choices, list):
        return {"choices": [_choice(dictionary(choice)) for choice in choices]}
    if _is_response(document):
        kept = without({key: document.get(key) for key in ("status", "incomplete_details")})
        return kept | {"output": [_item(item) for item in document["output"]]}
    if not _is_embeddings(document):  # a stream's last event may say another object than its type
        raise Malformed(_NOTHING)
    return {"data": [{"embedding": _vector(entry["embedding"])} for entry in _ordered(document["data"])]}


def raise_error(document: Json) -> None:
    """Raises Malformed for a document that reports an error."""
    if dictionary(document).get("error") or event_type(document) in ("error", "response.failed"):
        raise Malformed("the response is an error")


def event_type(document: Json) -> str:
    """What a document says it is; "" if it does not."""
    found = dictionary(document).get("type")
    return found if isinstance(found, str) else ""


# Chat and text completions ----------------------------------------------------------------------------
def _completion(documents: list[Json]) -> dict[str, Json]:
    whole: dict[str, Json] = {}
    choices: dict[int, Assembly] = {}
    for document in map(dictionary, documents):
        whole |= {key: value for key, value in document.items() if key != "choices" and value is not None}
        parts = [dictionary(choice) for choice in sequence(document.get("choices"))]
        for index, part in zip(_places(parts), parts, strict=True):
            message = {"message": _flat(part.get("delta", part.get("message")))}
            choices.setdefault(index, Assembly()).add(without(part, ("delta", "message")) | without(message))
    if not choices:
        raise Malformed("the response has no choices")
    return whole | {"choices": [choices[index].whole() for index in sorted(choices)]}


def _flat(message: Json) -> Json:
    """A message, or a piece of one, whose content may be typed parts (Mistral): their text, and their reasoning."""
    content = dictionary(message).get("content")
    if not isinstance(content, list):
        return message
    parts = [(event_type(part), dictionary(part)) for part in content]
    thoughts = [thought for _, part in parts for thought in sequence(part.get("thinking"))]
    said = {
        "content": _texts([part for kind, part in parts if kind == "text"]),
        "parts": [part for kind, part in parts if kind not in ("text", "thinking")],
    }
    return message | said | ({"reasoning_content": _texts(thoughts)} if thoughts else {})


def _texts(parts: list[Json]) -> str:
    return "".join(text for part in parts if isinstance(text := dictionary(part).get("text"), str))


def _places(choices: list[dict[str, Json]]) -> list[int]:
    """Each one's index; their order, where they do not say it or say one twice."""
    found = [choice.get("index") for choice in choices]
    if all(type(index) is int for index in found) and len(set(found)) == len(found):
        return found  # type: ignore[return-value]
    return list(range(len(choices)))


def _choice(choice: dict[str, Json]) -> dict[str, Json]:
    kept = without({key: choice.get(key) for key in ("text", "finish_reason")})
    message = dictionary(choice.get("message"))
    said = without({key: message.get(key) for key in _MESSAGE})
    calls = [_call(dictionary(call)) for call in sequence(message.get("tool_calls"))]
    audio = without(message.get("audio"), ("id", "expires_at"))
    old = without(_call({"function": message.get("function_call")}))
    return kept | without({"message": said | without({"tool_calls": calls, "audio": audio}) | old})


_MESSAGE: Final = ("content", "parts", "images", "refusal", "reasoning_content", "reasoning")


def _call(call: dict[str, Json]) -> dict[str, Json]:
    """A tool call without its id, which is chance."""
    function = dictionary(call.get("function"))
    kept = {"name": function.get("name"), "arguments": arguments(function.get("arguments"))}
    return without({"function": without(kept), "custom": call.get("custom")})


def arguments(value: Json) -> Json:
    """Arguments of a call as JSON where they are."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode("utf-8", "surrogatepass"))
    except Malformed:
        return value


# Responses --------------------------------------------------------------------------------------------
_DELTAS: Final = {
    "response.output_text.delta": ("content", "content_index", "output_text", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "summary_text", "text"),
}
"""Where a piece of text belongs: list of the item, key of the place in it, type and member of what lies there."""
_ITEM_DELTAS: Final = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}
_OWN: Final = frozenset({"id", "call_id", "status", "encrypted_content", "created_by"})
"""Members of an output item that are the server's own."""


def _is_response(document: Json) -> bool:
    known = dictionary(document)
    return known.get("object") == "response" and isinstance(known.get("output"), list)


def _response(documents: list[Json]) -> dict[str, Json]:
    """The response that a stream ends with; where that says nothing, what its events added up to."""
    whole: dict[str, Json] = {"object": "response"}
    growing: dict[int, Assembly] = {}
    done: dict[int, Json] = {}
    for event in map(dictionary, documents):
        whole |= dictionary(event.get("response"))
        index = event.get("output_index")
        if type(index) is not int:
            continue
        kind = event_type(event)
        if kind == "response.output_item.done":
            done[index] = event.get("item")
        elif kind == "response.output_item.added":
            growing.setdefault(index, Assembly()).add(without(event.get("item")))
        else:
            growing.setdefault(index, Assembly()).add(_delta(event))
    if not sequence(whole.get("output")):
        items = {index: item.whole() for index, item in growing.items()} | done
        whole["output"] = [items[index] for index in sorted(items)]
    return whole


def _delta(event: dict[str, Json]) -> dict[str, Json]:
    """What an event adds to its item."""
    kind, text = event_type(event), event.get("delta")
    if kind in _ITEM_DELTAS:
        return {_ITEM_DELTAS[kind]: text}
    if kind not in _DELTAS:
        return {}
    group, place, name, member = _DELTAS[kind]
    index = event.get(place)
    return {group: [{"index": index if type(index) is int else 0, "type": name, member: text}]}


def _item(item: Json) -> Json:
    kept = without(item, _OWN)
    for group in ("content", "summary"):
        if group in kept:
            kept[group] = [without(part, ("index", "logprobs")) for part in sequence(kept[group])]
    if "arguments" in kept:
        kept["arguments"] = arguments(kept["arguments"])
    return kept


# Embeddings -------------------------------------------------------------------------------------------
def _is_embeddings(document: Json) -> bool:
    entries = dictionary(document).get("data")
    return (
        isinstance(entries, list)
        and bool(entries)
        and all(
            isinstance(entry, dict) and isinstance(entry.get("embedding"), str | list) for entry in entries
        )
    )


def _ordered(entries: list[dict[str, Json]]) -> list[dict[str, Json]]:
    return [
        entry for _, entry in sorted(zip(_places(entries), entries, strict=True), key=lambda pair: pair[0])
    ]


def _vector(value: Json) -> Json:
    """The numbers of a vector, which may be 32-bit floats in base64. Raises Malformed."""
    if not isinstance(value, str):
        return value
    try:
        raw = base64.b64decode(value, validate=True)
        return np.frombuffer(raw, "<f4").astype(np.float64).tolist()
    except (binascii.Error, ValueError) as fault:
        raise Malformed("an embedding is neither numbers nor 32-bit floats in base64") from fault
