"""Bodies cut into parts: server-sent events, JSON documents one behind the other, plain text.

Text is put together here; documents by the formats that know how (`policies.comparison.pieces`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from policies.comparison.bodies import Empty, Json, Malformed, Response, parse_json

LINES: Final = frozenset(
    f"application/{name}"
    for name in (
        "x-ndjson",
        "ndjson",
        "jsonl",
        "x-jsonl",
        "jsonlines",
        "x-jsonlines",
        "json-lines",
        "json-seq",
    )
)
_FIELDS: Final = frozenset(("data", "event", "id", "retry", ""))
"""Of a server-sent event; "" is a comment's."""
_END: Final = "[DONE]"
_JSON_STARTS: Final = frozenset('{["-0123456789tfnNI')
_PINGS: Final = frozenset(("ping", "heartbeat", "keepalive", "keep-alive"))
"""Names of events that say only that the connection lives."""


class Documents(list[Json]):
    """The JSON documents of a body, in order."""

    __slots__ = ("names", "streamed", "text")

    def __init__(
        self,
        documents: Iterable[Json],
        *,
        streamed: bool = True,
        names: Iterable[str] = (),
        text: str | None = None,
    ) -> None:
        super().__init__(documents)
        self.streamed = streamed
        """Whether they are the parts of a stream; else there is one."""
        self.names = tuple("" if name == "message" else name for name in names)
        """Of server-sent events, one for each document; "" is the default."""
        self.text = text
        """What the parts say, one behind the other, if they are neither objects nor lists."""


def read(response: Response, body: bytes) -> Documents | None:
    """The documents that ``body`` holds; None if it holds something else than JSON or events.

    Raises Malformed for a body that should be JSON and is not.
    """
    if response.is_event_stream:
        return _events(body)
    declared = response.media in LINES or response.media.endswith("json")
    if not declared and body[:64].lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        if response.media not in LINES:
            return Documents([parse_json(body)], streamed=False)
    except Malformed:
        pass  # several documents, perhaps
    try:
        return _lines(body)
    except Malformed:
        if declared:
            raise
        return None


# JSON documents one behind the other ------------------------------------------------------------------
def _lines(body: bytes) -> Documents:
    """Documents with or without white space between them."""
    try:
        text = body.decode()
    except ValueError as fault:
        raise Malformed("the body is not valid JSON") from fault
    documents, decoder = list[Json](), json.JSONDecoder()
    place, size = _skip(text, 0), len(text)
    while place < size:
        try:
            document, place = decoder.raw_decode(text, place)
        except RecursionError as fault:
            raise Malformed("the JSON is nested too deeply") from fault
        except ValueError as fault:
            what = f"document {len(documents) + 1} of the stream" if documents else "the body"
            raise Malformed(f"{what} is not valid JSON") from fault
        documents.append(document)
        place = _skip(text, place)
    if not documents:
        raise Empty("the stream has no data")
    return Documents(documents)


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n\x1e":
        place += 1
    return place


# Server-sent events -----------------------------------------------------------------------------------
def _events(body: bytes) -> Documents:
    """Raises Empty for a stream of comments and pings alone, Malformed for one of JSON whose JSON is broken."""
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if any(line and line.partition(":")[0] not in _FIELDS for line in lines):
        return _text(text)  # an event stream by its content type alone
    found = [(name, data) for name, data in _dispatch(lines) if name not in _PINGS]
    if not found:
        raise Empty("the stream has no data, only comments or pings" if text else "the stream is empty")
    names, data = zip(*found, strict=True)
    parts = [_part(each) for each in data]
    plain = [number for number, part in enumerate(parts, 1) if isinstance(part, _Plain)]
    documents = sum(bool(part) for part in parts if isinstance(part, dict | list))
    if documents and documents >= len(plain):  # pieces of text may be JSON, too: {} and [] are common in code
        for number in plain:
            if data[number - 1].lstrip()[:1] == "{":  # a client fails here; "END" and such are usual
                raise Malformed(f"document {number} of the stream is not valid JSON")
        return Documents(parts, names=names)
    if all(type(part) is str for part in parts):
        return _text("".join(parts))
    if plain:
        return _text("".join(data))
    return Documents(parts, names=names, text="".join(data))


def _dispatch(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each event that has data, up to the one that marks the end."""
    name, data = "", list[str]()
    for line in [*lines, ""]:
        field, _, value = line.partition(":")
        if not line:
            if "\n".join(data).strip() == _END:
                return
            if data:
                yield name, "\n".join(data)
            name, data = "", []
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")


class _Plain(str):
    """An event's data that is not JSON."""

    __slots__ = ()


def _part(data: str) -> Json:
    if data.lstrip()[:1] not in _JSON_STARTS:
        return _Plain(data)
    try:
        return parse_json(data)
    except Malformed:
        return _Plain(data)


def _text(text: str) -> Documents:
    return Documents([text], text=text)
