"""Every known format: the same content agrees under other ids, times and cuts; another content never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.comparison.bodies import Comparison, Response
from policies.comparison.compare import compare
from tests.policies.comparison.formats import FORMATS, js, responses_in

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded.json").read_text())


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), text=TEXTS)
def test_the_same_content_agrees(name: str, data: st.DataObject, text: str) -> None:
    first, second = data.draw(responses_in(name, text, text))
    found = compare(first, second)
    assert (found.agrees, found.detail) == (True, "")
    assert found.form not in ("json", "stream", "bytes")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), text=TEXTS, other=TEXTS)
def test_another_content_differs(name: str, data: st.DataObject, text: str, other: str) -> None:
    if name == "embeddings":
        text, other = text[:20], other[:20]
    if name == "events":
        text, other = (each.replace("\n", " ").replace("\r", " ") for each in (text, other))
    if text == other:
        other = text + "x" if len(text) < 20 else text[:-1] + chr(ord(text[-1]) ^ 1)
    first, second = data.draw(responses_in(name, text, other))
    found = compare(first, second)
    assert found.agrees is False
    assert json.loads(found.detail)["differences"] >= 1


@pytest.mark.parametrize("name", ["chat", "tools", "completions", "responses", "messages", "ollama_chat"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_stream_that_broke_off_differs(name: str, data: st.DataObject) -> None:
    """Its text may be whole, but it does not say why it ended."""
    whole, stream = data.draw(responses_in(name, "some text", "some text"))
    end = {
        "responses": b'"response.completed"',
        "messages": b'"message_delta"',
        "ollama_chat": b'"done": true',
    }
    place = stream.body.find(end.get(name, b'"finish_reason": "'))
    if stream.media in ("text/event-stream", "application/x-ndjson"):
        cut = Response(stream.body[: stream.body.rfind(b"\n", 0, place)], stream.content_type)
        assert compare(whole, cut).agrees is False


# What real servers answered -----------------------------------------------------------------------------
def recorded(name: str, which: str) -> Response:
    found = RECORDED[name]
    return Response(found[which].encode(), found["type"])


@pytest.mark.parametrize("name", RECORDED)
def test_a_server_agrees_with_itself(name: str) -> None:
    found = compare(recorded(name, "first"), recorded(name, "second"))
    assert (found.agrees, found.form) == (True, RECORDED[name]["form"])


@pytest.mark.parametrize("name", RECORDED)
def test_a_server_that_says_something_else_differs(name: str) -> None:
    first = recorded(name, "first")
    old, new = RECORDED[name]["change"]
    assert old in RECORDED[name]["second"]
    second = Response(RECORDED[name]["second"].replace(old, new).encode(), first.content_type)
    assert compare(first, second).agrees is False


# What declared paths and ignored ones mean --------------------------------------------------------------
@pytest.mark.parametrize("name", ["chat", "responses", "messages", "ollama_chat"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_paths_lead_into_what_was_put_together(name: str, data: st.DataObject) -> None:
    path = {
        "chat": "choices.0.message.content",
        "responses": "output.*.content.*.text",
        "messages": "content.1.text",
        "ollama_chat": "message.content",
    }[name]
    first, second, other = data.draw(responses_in(name, "one text", "one text", "another text"))
    assert compare(first, second, Comparison(paths=(path,))).agrees is True
    found = compare(first, other, Comparison(paths=(path,)))
    assert found.agrees is False
    assert json.loads(found.detail)["first"][0]["where"].startswith(path)
    nowhere = compare(first, second, Comparison(paths=("nowhere",)))
    assert (nowhere.agrees, nowhere.detail) == (None, "none of the declared paths is in either response")


def stream(*documents: Any) -> Response:
    return Response(
        b"".join(b"data: %s\n\n" % json.dumps(document).encode() for document in documents),
        "text/event-stream",
    )


def test_paths_hold_for_each_part_of_a_stream_and_join_its_texts() -> None:
    first = stream({"t": {"text": "Hel"}, "id": 1}, {"t": {"text": "lo"}, "id": 2}, {"end": True})
    second = stream({"t": {"text": "H"}, "id": 3}, {"t": {"text": "el"}, "id": 4}, {"t": {"text": "lo"}})
    assert compare(first, second).agrees is False
    assert compare(first, second, Comparison(paths=("t.text",))).agrees is True
    assert compare(first, second, Comparison(form="json", paths=("t.text",))).agrees is True
    other = stream({"t": {"text": "Help"}})
    assert compare(first, other, Comparison(paths=("t.text",))).agrees is False
    numbers = stream({"y": 1.0}, {"y": 2.0})
    assert compare(numbers, stream({"y": 1.00001}, {"y": 2.0}), Comparison(paths=("y",))).agrees is True
    assert compare(numbers, stream({"y": 1.0}), Comparison(paths=("y",))).agrees is False


@pytest.mark.parametrize(
    ("first", "second", "ignore"),
    [
        (js({"a": 1, "id": 2}), js({"a": 1, "id": 3}), "id"),
        (js({"a": 1, "id": 2}), js({"a": 1}), "id"),
        (js({"a": [{"id": 1, "x": 2}, {"id": 2, "x": 3}]}), js({"a": [{"id": 9, "x": 2}, {"x": 3}]}), "a.*.id"),
        (js({"a": {"b": 1, "c": 5}}), js({"a": {"b": 2, "c": 5}}), "a.b"),
        (js({"a": [1, 2, 3]}), js({"a": [1, 9, 3]}), "a.1"),
        (stream({"n": 1, "at": 5}, {"n": 2, "at": 6}), stream({"n": 1, "at": 7}, {"n": 2}), "at"),
        (js({"choices": [{"text": "a", "finish_reason": "stop"}]}),
         js({"choices": [{"text": "a", "finish_reason": "length"}]}), "choices.*.finish_reason"),
        (js({"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [1]},
                         {"name": "ms", "datatype": "INT64", "shape": [1], "data": [5]}]}),
         js({"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [1]},
                         {"name": "ms", "datatype": "INT64", "shape": [1], "data": [6]}]}), "ms"),
    ],
)  # fmt: skip
def test_what_is_ignored_does_not_count(first: Response, second: Response, ignore: str) -> None:
    assert compare(first, second).agrees is False
    assert compare(first, second, Comparison(ignore=(ignore,))).agrees is True
    assert compare(first, second, Comparison(ignore=("elsewhere", "a.7", "a.*.nothing"))).agrees is False


def test_ignored_paths_hold_within_declared_ones() -> None:
    a, b = js({"r": {"x": 1, "t": 1}}), js({"r": {"x": 1, "t": 2}})
    assert compare(a, b, Comparison(paths=("r",))).agrees is False
    assert compare(a, b, Comparison(paths=("r",), ignore=("r.t",))).agrees is True


# Streams of any kind ------------------------------------------------------------------------------------
EVENTS = "text/event-stream"


@pytest.mark.parametrize(
    ("first", "second", "form"),
    [
        (b"Hello world", b"Something else entirely", "text"),
        (b"Hello\n\ndata: x\n\nworld", b"Hello\n\ndata: x\n\nmoon", "text"),
        (b"data: 1\n\ndata: 2\n\n", b"data: 1\n\ndata: 3\n\n", "text"),
        (b'data: {"a": 1}\n\n', b'data: {"a": 2}\n\n', "stream"),
        (b'data: {"a": 1}\n\n', b'data: {"a": 1}\n\ndata: {"a": 1}\n\n', "stream"),
        (b'event: a\ndata: {"a": 1}\n\n', b'event: b\ndata: {"a": 1}\n\n', "stream"),
        (b"data: one\ndata: two\n\n", b"data: onetwo\n\n", "text"),
        (b"data: one\n\n", b"", "text"),
        (b"data: one\n\n", b": ping\n\n", "text"),
    ],
)
def test_streams_of_any_kind(first: bytes, second: bytes, form: str) -> None:
    found = compare(Response(first, EVENTS), Response(second, EVENTS))
    assert (found.agrees, found.form) == (False, form)
    assert compare(Response(first, EVENTS), Response(first, EVENTS)).agrees is True


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"data: 1.0\n\ndata: 2\n\n", b"data: 1.00001\n\ndata: 2\n\n"),
        (b"data: I have \n\ndata: 42\n\n", b"data: I have 4\n\ndata: 2\n\n"),
        (b"data: 4\n\ndata: 2\n\n", b"data: 42\n\n"),
        (b"data: x = \n\ndata: {}\n\n", b"data: x = {\n\ndata: }\n\n"),
        (b"data: hello\n\ndata: [1]\n\ndata: !\n\n", b"data: hello[\n\ndata: 1]!\n\n"),
        (b'data: {"a": 1}\n\n: ping\n\ndata: [DONE]\n\n', b'data: {"a":1}\n\n'),
        (b'event: message\ndata: {"a": 1}\n\n', b'data: {"a":1}\n\n'),
    ],
)
def test_streams_that_say_the_same(first: bytes, second: bytes) -> None:
    assert compare(Response(first, EVENTS), Response(second, EVENTS)).agrees is True
    assert compare(Response(second, EVENTS), Response(first, EVENTS)).agrees is True


@pytest.mark.parametrize(
    "body", [b": ping\n\n", b"event: ping\ndata: {}\n\n: x\n\n", b"", b"data: [DONE]\n\n"]
)
def test_a_stream_without_data_agrees_with_nothing(body: bytes) -> None:
    found = compare(Response(body, EVENTS), Response(body, EVENTS))
    assert found.agrees is None
    assert found.detail


@pytest.mark.parametrize("media", ["application/x-ndjson", "application/jsonl", "application/json", ""])
def test_documents_one_behind_the_other(media: str) -> None:
    def body(*documents: Any, between: str = "\n") -> Response:
        return Response(between.join(map(json.dumps, documents)).encode(), media)

    first = body({"x": 1.0}, {"x": 2})
    assert compare(first, body({"x": 1.00001}, {"x": 2}, between="\r\n\n")).agrees is True
    assert compare(first, body({"x": 1.0}, {"x": 2}, between="")).agrees is True
    assert compare(first, body({"x": 1.0}, {"x": 3})).agrees is False
    assert compare(first, body({"x": 1.0}, {"x": 2}, {"x": 3})).agrees is False


def test_why_a_stream_of_documents_cannot_be_read() -> None:
    broken = Response(b'{"x": 1}\n{"x": \n', "application/x-ndjson")
    found = compare(broken, Response(b'{"x": 1}\n', "application/x-ndjson"))
    assert (found.agrees, found.detail) == (None, "document 2 of the stream is not valid JSON")


def test_an_event_whose_json_is_broken_is_not_left_out() -> None:
    """A client fails at it, though all that is said may be in the others."""
    good, broken, other_end = (
        Response(b'data: {"choices": [{"text": "a"}]}\n\n' + end, EVENTS)
        for end in (b"data: [DONE]\n\n", b'data: {"choices": [\n\n', b"data: END\n\n")
    )
    found = compare(broken, good)
    assert (found.agrees, found.detail) == (None, "document 2 of the stream is not valid JSON")
    assert compare(good, broken).agrees is False
    assert compare(good, other_end).agrees is True


# Newer kinds of content ---------------------------------------------------------------------------------
def mistral(*pieces: Any) -> Response:
    return stream(*({"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces))


def thought(text: str) -> list[dict[str, Any]]:
    return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]


def test_content_in_typed_parts_is_text_and_reasoning() -> None:
    first = mistral(thought("let me "), thought("see"), "4", [{"type": "text", "text": "2"}])
    assert compare(first, mistral(thought("let me see"), "42")).agrees is True
    message = {"content": [*thought("let me see"), {"type": "text", "text": "42"}]}
    assert compare(first, js({"choices": [{"index": 0, "message": message}]})).agrees is True
    assert compare(first, mistral(thought("let me go"), "42")).agrees is False
    assert compare(first, mistral(thought("let me see"), "43")).agrees is False
    reference = [{"type": "reference", "reference_ids": [1]}]
    assert compare(first, mistral(thought("let me see"), "42", reference)).agrees is False


@pytest.mark.parametrize(
    "block",
    [
        {"type": "redacted_thinking", "data": "CHANCE"},
        {"type": "text", "text": "x", "citations": [{"url": "u", "encrypted_index": "CHANCE"}]},
        {"type": "web_search_tool_result", "content": [{"url": "u", "encrypted_content": "CHANCE"}]},
    ],
    ids=lambda block: str(block["type"]),
)
def test_what_anthropic_encrypts_does_not_count(block: dict[str, Any]) -> None:
    message = json.dumps({"type": "message", "content": [block]})
    first, second = (js(json.loads(message.replace("CHANCE", each))) for each in ("abc", "xyz"))
    assert compare(first, second).agrees is True
    other = message.replace('"u"', '"v"').replace("redacted_thinking", "thinking")
    assert compare(first, js(json.loads(other))).agrees is False


def test_a_long_text_is_shown_from_its_first_difference() -> None:
    first, second = (js({"choices": [{"text": "a" * 500 + each}]}) for each in ("xyz", "uvw"))
    (found,) = json.loads(compare(first, second).detail)["first"]
    assert found["primary"].endswith("axyz")
    assert found["shadow"].endswith("auvw")


def test_streams_of_tensors() -> None:
    def events(*rows: list[float], name: str = "scores") -> Response:
        return stream(
            *({"outputs": [{"name": name, "datatype": "FP32", "shape": [1, 2], "data": row}]} for row in rows)
        )

    first = events([0.1, 0.9], [0.7, 0.3])
    assert compare(first, events([0.2, 0.8], [0.6, 0.4])).agrees is True, "the largest is at the same place"
    assert compare(first, events([0.2, 0.8], [0.4, 0.6])).agrees is False
    assert compare(first, events([0.1, 0.9])).agrees is False
    assert compare(first, first, Comparison(form="v2", paths=("scores",))).agrees is True
    assert compare(first, first, Comparison(form="v2", paths=("other",))).agrees is None
