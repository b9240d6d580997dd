"""Clients and backends whose bytes come in segments that a property test draws."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.client import Answer, Client
from tests.support.stage import Stage, Transport

RELAXED = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

BODY = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"",
            b"\r\n",
            b"0\r\n\r\n",
            b"GET /p/smuggled HTTP/1.1\r\nhost: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ]
    ),
    st.integers(1, 70_000).map(lambda size: bytes(n % 251 for n in range(size))),
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` in pieces; ``cuts`` are sizes, used round and round."""
    if not cuts:
        return [data] if data else []
    found, place, turn = [], 0, 0
    while place < len(data):
        size = cuts[turn % len(cuts)]
        found.append(data[place : place + size])
        place += size
        turn += 1
        if turn > 400:  # the rest at once
            found.append(data[place:])
            break
    return [piece for piece in found if piece]


CUTS = st.lists(st.one_of(st.integers(1, 8), st.integers(1, 3000), st.integers(1, 100_000)), max_size=6)


def in_chunks(body: bytes, cuts: list[int], *, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in split(body, cuts))
    return chunks + b"0\r\n" + trailer + b"\r\n"


@dataclass(frozen=True)
class Asked:
    method: bytes
    target: bytes
    body: bytes
    data: bytes


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD"]))
    target = b"/p/" + draw(st.sampled_from([b"x", b"a%20b?c=%ff", b"y" * 300]))
    head = b"%b %b HTTP/1.1\r\nhost: h\r\n" % (method, target)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b"" if framing == "none" else draw(BODY)
    if framing == "length":
        head += b"content-length: %d\r\n" % len(body)
        data = head + b"\r\n" + body
    elif framing == "chunked":
        extension = draw(st.sampled_from([b"", b";x", b';y="z"']))
        trailer = draw(st.sampled_from([b"", b"x-t: 1\r\n"]))
        data = (
            head
            + b"transfer-encoding: chunked\r\n\r\n"
            + in_chunks(body, draw(CUTS), extension=extension, trailer=trailer)
        )
    else:
        data = head + b"\r\n"
    return Asked(method, target, body, draw(st.sampled_from([b"", b"\r\n"])) + data)


@dataclass(frozen=True)
class Told:
    body: bytes
    framing: str
    data: bytes
    """Head and framed body."""
    head: bytes


@st.composite
def told(draw: st.DrawFn) -> Told:
    body = draw(BODY)
    framing = draw(st.sampled_from(["length", "length", "chunked", "chunked", "close"]))
    interim = draw(
        st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
    )
    head = interim + b"HTTP/1.1 200 OK\r\n"
    if framing == "length":
        head += b"content-length: %d\r\n\r\n" % len(body)
        return Told(body, framing, head + body, head)
    if framing == "chunked":
        head += b"transfer-encoding: chunked\r\n\r\n"
        return Told(body, framing, head + in_chunks(body, draw(CUTS)), head)
    return Told(body, framing, head + b"\r\n" + body, head + b"\r\n")


def requests_in(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(method, target, body) of each whole request, as a backend reads them."""
    while b"\r\n\r\n" in data:
        head, _, data = data.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        body = b""
        if b"transfer-encoding: chunked" in head:
            while True:
                match = re.match(rb"([0-9a-f]+)\r\n", data)
                if match is None:
                    return
                size = int(match[1], 16)
                end = match.end() + size + 2
                if len(data) < end:
                    return
                assert data[end - 2 : end] == b"\r\n"
                body += data[match.end() : end - 2]
                data = data[end:]
                if not size:
                    break
        else:
            length = re.search(rb"\r\ncontent-length: (\d+)", head)
            size = int(length[1]) if length else 0
            if len(data) < size:
                return
            body, data = data[:size], data[size:]
        yield method, target, body


def answers_in(data: bytes, methods: list[bytes]) -> list[Answer]:
    """The final answers that a strict client reads."""
    reader = Client.__new__(Client)
    reader.buffer, reader.ended = data, True
    found = []
    for method in methods:
        answer = reader.answer(method)
        while answer.status < 200:
            answer = reader.answer(method)
        found.append(answer)
    assert reader.buffer == b""
    return found


class Show:
    """Client and backend, each with bytes to send; who comes next is for the test to draw."""

    def __init__(self, stage: Stage, segments: list[bytes], answers: list[Told], cuts: list[int]) -> None:
        self.stage = stage
        self.client = stage.client()
        self.segments = segments
        self.answers = answers
        self.cuts = cuts
        self.sticks = 0
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        self.read: dict[Transport, int] = {}
        self.pending: tuple[Transport, list[bytes], Told] | None = None

    def step(self, choice: int) -> bool:
        """One event; False where nothing is left to happen."""
        stage = self.stage
        while any(not dial.over for dial in stage.dials):
            stage.connected()
        self._listen()
        options = []
        if self.segments and self.client.reading and not self.client.closing:
            options.append(self._client_sends)
        if self.pending is not None and (self.pending[0].reading or self.client.stuck):
            options.append(self._backend_sends)
        if self.client.stuck:
            options.append(self._client_takes)
        elif options and choice % 7 == 0 and self.sticks < 10 and not self.client.closing:
            options.append(self._client_sticks)
        if not options:
            return False
        options[choice % len(options)]()
        stage.turn()
        return True

    def _listen(self) -> None:
        if self.pending is not None:
            return
        for transport in self.stage.transports:
            if transport.name == "a":
                found = list(requests_in(transport.written))
                if len(found) > self.read.get(transport, 0):
                    self.read[transport] = len(found)
                    self.seen.append(found[-1])
                    answer = self.answers[(len(self.seen) - 1) % len(self.answers)]
                    data = answer.head if found[-1][0] == b"HEAD" else answer.data
                    self.pending = (transport, split(data, self.cuts), answer)

    def _client_sends(self) -> None:
        self.client.give(self.segments.pop(0))

    def _client_sticks(self) -> None:
        self.sticks += 1
        self.client.stuck = True

    def _client_takes(self) -> None:
        self.client.take()

    def _backend_sends(self) -> None:
        assert self.pending is not None
        transport, pieces, answer = self.pending
        if not transport.reading:
            self._client_takes()
            return
        if pieces:
            transport.give(pieces.pop(0))
        if not pieces:
            self.pending = None
            if answer.framing == "close" and not transport.closing:
                transport.leave()


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        yield Stage(patch)


def reset(stage: Stage) -> None:
    for transport in stage.transports:
        transport.leave()
    stage.turn()
    stage.clean()
    stage.transports.clear()
    stage.take()
    stage.outcomes.clear()
    stage.serial.__next__()
