"""Responses in every known format: what they say is given, all else (ids, times, cuts) is drawn."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from policies.comparison.bodies import Response

Json = Any
Draw = Callable[[st.SearchStrategy[Any]], Any]
IDS = st.text("abcdef0123456789", min_size=1, max_size=6)
TIMES = st.integers(1_700_000_000, 1_800_000_000) | st.floats(1e9, 2e9)


def js(value: Json, media: str = "application/json") -> Response:
    return Response(json.dumps(value).encode(), media)


def sse(draw: Draw, events: list[tuple[str, Json]]) -> Response:
    """Events with comments and pings between them, in either kind of line end."""
    out = []
    for name, data in events:
        if draw(st.booleans()):
            out.append(draw(st.sampled_from([": ping\n\n", "event: ping\ndata: {}\n\n", "retry: 5\n\n"])))
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=draw(st.booleans()))
        out.append((f"event: {name}\n" if name else "") + f"data: {text}\n\n")
    body = "".join(out)
    if draw(st.booleans()):
        body = body.replace("\n", "\r\n")
    return Response(body.encode("utf-8", "surrogatepass"), "text/event-stream; charset=utf-8")


def lines(documents: list[Json], media: str = "application/x-ndjson") -> Response:
    return Response(b"".join(json.dumps(document).encode() + b"\n" for document in documents), media)


def cuts(draw: Draw, text: str) -> list[str]:
    """``text`` in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


# OpenAI -----------------------------------------------------------------------------------------------
def _frame(draw: Draw, kind: str) -> dict[str, Json]:
    return {"id": draw(IDS), "object": kind, "created": draw(TIMES), "model": draw(IDS)}


def chat(draw: Draw, text: str) -> Response:
    usage = {"completion_tokens": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        message = {"role": "assistant", "content": text, "tool_calls": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return js(_frame(draw, "chat.completion") | {"choices": [choice], "usage": usage})

    def chunk(delta: Json, finish: str | None = None) -> tuple[str, Json]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return "", _frame(draw, "chat.completion.chunk") | {"choices": [choice]}

    pieces = [chunk({"role": "assistant", "content": piece}) for piece in cuts(draw, text)]
    last = _frame(draw, "chat.completion.chunk") | {"choices": [], "usage": usage}
    return sse(draw, [*pieces, chunk({"content": None}, "stop"), ("", last), ("", "[DONE]")])


def tools(draw: Draw, text: str) -> Response:
    arguments = json.dumps({"text": text, "n": 1}, indent=draw(st.sampled_from([None, 1])))
    call = {"id": draw(IDS), "type": "function"}
    if draw(st.booleans()):
        calls = [call | {"function": {"name": "f", "arguments": arguments}}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return js(_frame(draw, "chat.completion") | {"choices": [choice]})

    def chunk(calls: Json, finish: str | None = None) -> tuple[str, Json]:
        choice = {"index": 0, "delta": {"tool_calls": calls}, "finish_reason": finish}
        return "", _frame(draw, "chat.completion.chunk") | {"choices": [choice]}

    first = chunk([{"index": 0, **call, "function": {"name": "f", "arguments": ""}}])
    rest = [chunk([{"index": 0, "function": {"arguments": piece}}]) for piece in cuts(draw, arguments)]
    return sse(draw, [first, *rest, chunk(None, "tool_calls"), ("", "[DONE]")])


def completions(draw: Draw, text: str) -> Response:
    def part(piece: str, finish: str | None) -> Json:
        return _frame(draw, "text_completion") | {
            "choices": [{"index": 0, "text": piece, "finish_reason": finish}]
        }

    if draw(st.booleans()):
        return js(part(text, "length"))
    pieces = [("", part(piece, None)) for piece in cuts(draw, text)]
    return sse(draw, [*pieces, ("", part("", "length")), ("", "[DONE]")])


def responses(draw: Draw, text: str) -> Response:
    item = draw(IDS)
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {
        "id": item, "type": "message", "role": "assistant", "status": "completed", "content": [content]
    }  # fmt: skip
    call = {
        "id": draw(IDS), "call_id": draw(IDS), "type": "function_call", "name": "f", "status": "completed",
        "arguments": json.dumps({"a": text}),
    }  # fmt: skip
    whole = {
        "id": draw(IDS), "object": "response", "created_at": draw(TIMES), "model": draw(IDS),
        "status": "completed", "error": None, "output": [message, call], "usage": {"output_tokens": 3},
    }  # fmt: skip
    if draw(st.booleans()):
        return js(whole)
    where = {"item_id": item, "output_index": 0, "content_index": 0}
    events: list[tuple[str, Json]] = [
        ("response.created", {"response": whole | {"status": "in_progress", "output": []}}),
        ("response.output_item.added", {"output_index": 0, "item": message | {"content": []}}),
        *(("response.output_text.delta", where | {"delta": piece}) for piece in cuts(draw, text)),
        ("response.output_item.added", {"output_index": 1, "item": call | {"arguments": ""}}),
        *(
            ("response.function_call_arguments.delta", {"output_index": 1, "delta": piece})
            for piece in cuts(draw, call["arguments"])
        ),
    ]
    if draw(st.booleans()):
        events += [
            ("response.output_item.done", {"output_index": place, "item": each})
            for place, each in enumerate((message, call))
        ]
    output = draw(st.sampled_from([whole["output"], []]))
    events.append(("response.completed", {"response": whole | {"output": output}}))
    return sse(draw, [(n, {"type": n, "sequence_number": k} | data) for k, (n, data) in enumerate(events)])


def embeddings(draw: Draw, text: str) -> Response:
    # Two numbers for each character: of neighbours beyond 10,000 the codes agree within the tolerance.
    codes = [float(part) for c in text[:20] for part in divmod(ord(c), 256)]
    vectors = [[0.5, 1 / 3, float(len(text))], codes]
    noise = draw(st.floats(-1e-6, 1e-6))
    data = []
    for index, vector in enumerate(vectors):
        shifted = [number + noise for number in vector]
        coded = base64.b64encode(np.asarray(shifted, "<f4").tobytes()).decode()
        value = draw(st.sampled_from([shifted, coded]))
        data.append({"object": "embedding", "index": index, "embedding": value})
    return js({"object": "list", "data": draw(st.permutations(data)), "model": draw(IDS), "usage": {}})


# Others -----------------------------------------------------------------------------------------------
def messages(draw: Draw, text: str) -> Response:
    tool = {"type": "tool_use", "id": draw(IDS), "name": "f", "input": {"a": text}}
    thinking = {"type": "thinking", "thinking": text, "signature": draw(IDS)}
    blocks = [thinking, {"type": "text", "text": text}, tool]
    whole = {
        "id": draw(IDS), "type": "message", "role": "assistant", "model": draw(IDS), "content": blocks,
        "stop_reason": "tool_use", "stop_sequence": None, "usage": {"output_tokens": draw(st.integers(0, 9))},
    }  # fmt: skip
    if draw(st.booleans()):
        return js(whole)
    grown = [("thinking_delta", "thinking", text), ("text_delta", "text", text)]
    grown.append(("input_json_delta", "partial_json", json.dumps(tool["input"])))
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": whole | {"content": [], "stop_reason": None}})
    ]
    for index, (kind, key, value) in enumerate(grown):
        empty = {"thinking": {"thinking": ""}, "text": {"text": ""}, "partial_json": tool | {"input": {}}}[
            key
        ]
        start = {"type": blocks[index]["type"], **empty}
        events.append(("content_block_start", {"index": index, "content_block": start}))
        events += [
            ("content_block_delta", {"index": index, "delta": {"type": kind, key: piece}})
            for piece in cuts(draw, value)
        ]
        events.append(("content_block_stop", {"index": index}))
    events += [
        ("message_delta", {"delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {}}),
        ("message_stop", {}),
    ]
    return sse(draw, [(name, {"type": name} | data) for name, data in events])


def _ollama(draw: Draw, text: str, said: Callable[[str], Json]) -> Response:
    def part(piece: str, *, done: bool) -> Json:
        found = {"model": draw(IDS), "created_at": draw(IDS), "done": done} | said(piece)
        ends = {"done_reason": "stop", "total_duration": draw(st.integers(1)), "eval_count": 3}
        return found | (ends if done else {})

    if draw(st.booleans()):
        return js(part(text, done=True))
    parts = [part(piece, done=False) for piece in cuts(draw, text)]
    media = draw(st.sampled_from(["application/x-ndjson", "application/json", ""]))
    return lines([*parts, part("", done=True)], media)


def ollama_chat(draw: Draw, text: str) -> Response:
    return _ollama(draw, text, lambda piece: {"message": {"role": "assistant", "content": piece}})


def ollama_generate(draw: Draw, text: str) -> Response:
    return _ollama(draw, text, lambda piece: {"response": piece})


def seldon(draw: Draw, text: str) -> Response:
    meta = {"puid": draw(IDS), "requestPath": {"m": draw(IDS)}, "routing": {}}
    data = {"names": ["text"], "ndarray": [[text, 0.5]]}
    return js({"meta": meta, "data": data})


def tgi(draw: Draw, text: str) -> Response:
    details = {"finish_reason": "length", "seed": draw(st.integers(0)), "generated_tokens": 3}
    if draw(st.booleans()):
        return js({"generated_text": text, "details": details})
    events = [
        ("", {"index": k, "token": {"id": k, "text": piece, "logprob": -0.1}, "generated_text": None})
        for k, piece in enumerate(cuts(draw, text))
    ]
    last = {"index": 9, "token": {"id": 2, "text": "</s>", "special": True}}
    return sse(draw, [*events, ("", last | {"generated_text": text, "details": details})])


def triton(draw: Draw, text: str) -> Response:
    def part(piece: str) -> Json:
        return {"model_name": draw(IDS), "model_version": "1", "text_output": piece, "score": 0.5}

    if draw(st.booleans()):
        return js(part(text))
    return sse(draw, [("", part(piece)) for piece in cuts(draw, text)])


def v2(draw: Draw, text: str) -> Response:
    def part(piece: str) -> Json:
        said = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [piece]}
        headers = {"parameters": {"headers": {"Ce-Id": draw(IDS)}}}
        return {"model_name": draw(IDS), "id": draw(IDS), "outputs": [said]} | headers

    how = draw(st.sampled_from(["whole", "events", "lines"]))
    if how == "whole":
        return js(part(text))
    parts = [part(piece) for piece in cuts(draw, text)]
    return sse(draw, [("", each) for each in parts]) if how == "events" else lines(parts)


def raw(draw: Draw, text: str) -> Response:
    """Text that is an event stream by its content type alone."""
    return Response(f"said {text}".encode("utf-8", "surrogatepass"), "text/event-stream")


def events(draw: Draw, text: str) -> Response:
    """Text in events; a line end within it takes a data line of its own."""
    pieces = cuts(draw, f"> {text}".replace("\n", " ").replace("\r", " "))
    return Response("".join(f"data: {piece}\n\n" for piece in pieces).encode(), "text/event-stream")


def quoted(draw: Draw, text: str) -> Response:
    """Text in events, as JSON."""
    return sse(draw, [("", json.dumps(piece)) for piece in cuts(draw, text)])


FORMATS: dict[str, Callable[[Draw, str], Response]] = {
    make.__name__: make
    for make in (
        chat, tools, completions, responses, embeddings, messages, ollama_chat, ollama_generate, seldon, tgi, triton,
        v2, raw, events, quoted,
    )
}  # fmt: skip


@st.composite
def responses_in(draw: st.DrawFn, name: str, *texts: str) -> list[Response]:
    """Each of ``texts`` in the format ``name``: one draw of the test, for each of those takes time of its own."""
    return [FORMATS[name](draw, text) for text in texts]
