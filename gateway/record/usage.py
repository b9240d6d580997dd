"""Token counts in responses of language models, whole or streamed, and when a stream's first token came.

OpenAI (chat, completions, Responses, embeddings), Anthropic, Gemini and Ollama, each by the names that it gives them.
Of a long response only the beginning and the end are kept: counts come last, Anthropic's input tokens first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, Final, NamedTuple

HEAD_BYTES: Final = 4096
TAIL_BYTES: Final = 16_384
MAX_CUT: Final = 8
"""Objects that cannot be read until the search ends: each costs the loop a look at all the rest."""
MAX_TOKENS: Final = 1_000_000_000
"""A larger count is ignored."""

_OBJECT: Final = re.compile(r'(?<!\\)"usage(?:Metadata)?"\s*:\s*(?=\{)')
"""Before the object with the counts. Within a text of JSON its quotes would follow backslashes."""
_OLLAMA: Final = re.compile(r'(?<!\\)"(prompt_eval_count|eval_count)"\s*:\s*(\d{1,9})(?!\d)')
_INPUT: Final = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count")
_OUTPUT: Final = ("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count")
_REASONING: Final = "thoughtsTokenCount"
"""Gemini's, which are not among its output tokens."""
_CACHED: Final = ("cached_tokens", "cachedContentTokenCount")
_CACHE_READ: Final = "cache_read_input_tokens"
"""Anthropic's, which, as those written to the cache, are not among its input tokens."""
_CACHE_WRITTEN: Final = "cache_creation_input_tokens"
_STREAM: Final = re.compile(rb"content-type:.*(?:event-stream|ndjson)", re.IGNORECASE)
_TOKEN: Final = re.compile(
    rb'(?<!\\)"(?:content|text|delta|response|reasoning|reasoning_content|thinking|arguments|partial_json)"\s*:\s*"[^"]'
)
"""The first piece of output. What servers send before it (a role, an id, a message without content) does not match."""


class Usage(NamedTuple):
    """Tokens of one response."""

    input: int
    """Including those read from the provider's cache."""
    output: int
    """Including reasoning."""
    cached: int
    """Input tokens read from the provider's cache."""


class UsageReader:
    """Keeps the parts of a response body that can hold counts."""

    __slots__ = ("_clock", "_head", "_started", "_streamed", "_tail", "cut", "first_token_ms")

    def __init__(self, started: float = 0.0, clock: Callable[[], float] = perf_counter) -> None:
        """``started``: when the request's first byte came, by ``clock``, in seconds."""
        self._clock = clock
        self._started = started
        self._streamed = False
        self._head = bytearray()
        self._tail = bytearray()
        self.cut = False
        """Whether something between both parts is gone."""
        self.first_token_ms: float | None = None
        """Milliseconds from the request's first byte to the first token; None if the response is not a stream."""

    def begin(self, lines: Iterable[bytes]) -> None:
        """Take the field lines of the response."""
        self._streamed = any(map(_STREAM.match, lines))

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        if self._streamed and self.first_token_ms is None and _TOKEN.search(data):
            self.first_token_ms = (self._clock() - self._started) * 1e3
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 2 * TAIL_BYTES:
                self.cut = True
                del self._tail[:-TAIL_BYTES]

    def usage(self) -> Usage | None:
        """Return the counts; None if there are none."""
        text = (self._head + self._tail).decode("utf-8", "replace")
        counts: dict[str, int] = {}
        for found in _whole(text) if not self.cut and text[:1] == "{" else _searched(text):
            counts.update(_numbers(found))
        if not any(name in counts for name in (*_INPUT, *_OUTPUT)):
            return None
        read = counts.get(_CACHE_READ, 0)
        return Usage(
            _first(counts, _INPUT) + read + counts.get(_CACHE_WRITTEN, 0),
            _first(counts, _OUTPUT) + counts.get(_REASONING, 0),
            read or _first(counts, _CACHED),
        )


def _whole(text: str) -> Iterator[Mapping[str, Any]]:
    """The counts of a single JSON document; of several (NDJSON), what a search finds."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        yield from _searched(text)
        return
    for found in (document.get("usage"), document.get("usageMetadata"), document):
        if isinstance(found, dict):
            yield found


def _searched(text: str) -> Iterator[Mapping[str, Any]]:
    decoder, at, cut = json.JSONDecoder(), 0, 0
    while cut < MAX_CUT and (match := _OBJECT.search(text, at)) is not None:
        try:
            found, at = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):  # it is cut off
            at, cut = match.end(), cut + 1
        else:
            yield found
    for match in _OLLAMA.finditer(text):
        yield {match[1]: int(match[2])}


def _numbers(usage: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The counts of one object, and of the details in it."""
    for part in (usage, usage.get("prompt_tokens_details"), usage.get("input_tokens_details")):
        if isinstance(part, dict):
            for name, value in part.items():
                if type(value) is int and 0 <= value <= MAX_TOKENS:
                    yield name, value


def _first(counts: Mapping[str, int], names: tuple[str, ...]) -> int:
    return next((counts[name] for name in names if name in counts), 0)
