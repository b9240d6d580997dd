"""Token counts in what servers of language models really send, whole, streamed and cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gateway.record.usage import HEAD_BYTES, TAIL_BYTES, Usage, UsageReader

OPENAI = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
          "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
          "completion_tokens_details": {"reasoning_tokens": 4}}  # fmt: skip
RESPONSES = {"input_tokens": 36, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 87,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 123}  # fmt: skip
ANTHROPIC = {"input_tokens": 25, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 100,
             "output_tokens": 1, "service_tier": "standard"}  # fmt: skip


def events(*documents: object, end: str = "data: [DONE]\n\n") -> str:
    return "".join(f"data: {json.dumps(document)}\n\n" for document in documents) + end


def read(text: str, *, seed: int = 0) -> Usage | None:
    reader, data, chance = UsageReader(), text.encode(), random.Random(seed)
    while data:
        size = chance.randint(1, 3000)
        reader.feed(data[:size])
        data = data[size:]
    return reader.usage()


def chunk(text: str, usage: object = None) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], "usage": usage}


def filler(size: int) -> list[dict[str, Any]]:
    return [chunk("word " * 20) for _ in range(size // 150)]


LONG = "x" * (HEAD_BYTES + 5 * TAIL_BYTES)
BODIES: dict[str, tuple[str, Usage | None]] = {
    "chat": (json.dumps({"id": "c", "choices": [], "usage": OPENAI}), Usage(19, 10, 8)),
    "chat-long": (
        json.dumps({"choices": [{"message": {"content": LONG}}], "usage": OPENAI, "system_fingerprint": "f"}),
        Usage(19, 10, 8),
    ),
    "chat-stream": (events(*filler(900), {"choices": [], "usage": OPENAI}), Usage(19, 10, 8)),
    "chat-stream-long": (events(*filler(90_000), {"choices": [], "usage": OPENAI}), Usage(19, 10, 8)),
    "vllm-continuous": (
        events(*(chunk("a", OPENAI | {"completion_tokens": n}) for n in range(1, 12))),
        Usage(19, 11, 8),
    ),
    "no-usage-asked": (events(*filler(900)), None),
    "null": (json.dumps({"choices": [], "usage": None}), None),
    "embeddings": (
        json.dumps({"data": [{"embedding": LONG}], "model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}}),
        Usage(8, 0, 0),
    ),
    "responses-stream": (
        events({"type": "response.created", "response": {"usage": None}}, *filler(60_000),
               {"type": "response.completed", "response": {"output": [], "usage": RESPONSES}}, end=""),
        Usage(36, 87, 5),
    ),
    "anthropic": (json.dumps({"type": "message", "content": [], "usage": ANTHROPIC}), Usage(128, 1, 100)),
    "anthropic-stream": (
        events({"type": "message_start", "message": {"usage": ANTHROPIC}}, *filler(60_000),
               {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}}, {"type": "message_stop"},
               end=""),
        Usage(128, 15, 100),
    ),
    "gemini": (
        json.dumps({"candidates": [], "usageMetadata": {
            "promptTokenCount": 4, "candidatesTokenCount": 7, "thoughtsTokenCount": 20, "totalTokenCount": 31}}),
        Usage(4, 27, 0),
    ),
    "ollama": (json.dumps({"response": "a", "prompt_eval_count": 26, "eval_count": 298}), Usage(26, 298, 0)),
    "ollama-stream": (
        "".join(json.dumps(one) + "\n" for one in (
            *({"message": {"content": "word"}, "done": False} for _ in range(900)),
            {"message": {"content": ""}, "done": True, "prompt_eval_count": 26, "eval_count": 298})),
        Usage(26, 298, 0),
    ),
    "text": ("no JSON at all", None),
    "empty": ("", None),
    "a-list": ("[1, 2]", None),
    "deep": ("[" * 20_000, None),
    "deep-object": ('{"usage":' * 2000 + '{"usage":' + "{" * 9000, None),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("body", "usage"), BODIES.values(), ids=BODIES)
def test_counts(body: str, usage: Usage | None, seed: int) -> None:
    assert read(body, seed=seed) == usage


@pytest.mark.parametrize(
    "said", ['{"usage": {"prompt_tokens": 1e3}}', '"usage": {"completion_tokens": 99999}, ']
)
def test_what_a_text_says_of_usage_does_not_count(said: str) -> None:
    text = f'Certainly: {said} and "usage": {{"completion_tokens": 5}}'
    assert read(events(chunk(text))) is None
    assert read(events(chunk(text), {"choices": [], "usage": OPENAI})) == Usage(19, 10, 8)
    assert read(json.dumps({"choices": [{"message": {"content": text}}], "usage": OPENAI})) == Usage(
        19, 10, 8
    )


@pytest.mark.parametrize("count", [-1, True, "9", 1e3, None, 10**12])
def test_what_is_no_count(count: object) -> None:
    assert read(json.dumps({"usage": {"prompt_tokens": count}})) is None


CREATED = "event: response.created\n" + events(
    {"type": "response.created", "response": {"output": [], "text": {"format": {"type": "text"}}, "tools": [
        {"type": "function", "name": "f", "parameters": {"properties": {"content": {"type": "string"}}}}]}},
    {"type": "response.content_part.added", "part": {"type": "output_text", "text": "", "annotations": []}},
    end="",
)  # fmt: skip
STREAMS = {
    "chat": (
        events({"choices": [{"delta": {"role": "assistant", "content": "", "refusal": None}}]}, end=""),
        events(chunk("Hi")),
    ),
    "reasoning": (
        events({"choices": [{"delta": {"role": "assistant", "content": None}}]}, end=""),
        events({"choices": [{"delta": {"reasoning_content": "So"}}]}),
    ),
    "tool": (
        events({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": ""}}]}}]}, end=""),
        events({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": '{"a":'}}]}}]}),
    ),
    "completions": ("", events({"choices": [{"text": " a"}]})),
    "responses": (CREATED, events({"type": "response.output_text.delta", "delta": "Hi"}, end="")),
    "anthropic": (
        events({"type": "message_start", "message": {"content": [], "usage": ANTHROPIC}},
               {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}, {"type": "ping"},
               end=""),
        events({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, end=""),
    ),
    "gemini": ("", events({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}, end="")),
    "ollama": ("", json.dumps({"message": {"role": "assistant", "content": "Hi"}, "done": False}) + "\n"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "first"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("media_type", ["text/event-stream; charset=utf-8", "application/x-ndjson"])
def test_the_first_token_of_a_stream(before: str, first: str, media_type: str) -> None:
    times = iter((10.25, 10.5))
    reader = UsageReader(started=10.0, clock=lambda: next(times))
    reader.begin([b"x-other: 1\r\n", f"Content-Type: {media_type}\r\n".encode()])
    reader.feed(before.encode())
    assert reader.first_token_ms is None
    reader.feed(first.encode())
    reader.feed(first.encode())
    assert reader.first_token_ms == 250.0


def test_a_whole_response_has_no_first_token() -> None:
    reader = UsageReader()
    reader.begin([b"content-type: application/json\r\n"])
    reader.feed(json.dumps({"choices": [{"message": {"content": "Hi"}}], "usage": OPENAI}).encode())
    assert reader.first_token_ms is None


def test_memory_is_bounded() -> None:
    reader = UsageReader()
    for _ in range(2000):
        reader.feed(b"x" * 5000)
        assert len(reader._head) + len(reader._tail) <= HEAD_BYTES + 2 * TAIL_BYTES + 5000
    assert reader.usage() is None


def test_a_body_of_broken_counts_is_given_up() -> None:
    """Each object of the body holds all that follow, so that reading each of them took a quarter of a second."""
    reader, looks = UsageReader(), 0

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            nonlocal looks
            looks += 1
            return super().raw_decode(s, idx)

    reader.feed(b" " + b'{"usage":' * 3000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "JSONDecoder", Counting)
        assert reader.usage() is None
    assert 0 < looks <= 10
