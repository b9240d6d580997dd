"""Whatever the segments: no byte is lost, doubled or swapped, in either direction.

The oracles are parsers that share nothing with the gateway: a strict reader of ours (`tests.support.client`) and h11,
which httpx uses. What is well-formed must arrive as it was sent; what is not must never be understood differently
by the two sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.client import Answer, Client, Cut
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


@RELAXED
@given(
    st.lists(asked(), min_size=1, max_size=6),
    st.lists(told(), min_size=1, max_size=3),
    CUTS,
    CUTS,
    st.lists(st.integers(0, 1000), min_size=1, max_size=40),
)
def test_nothing_is_lost_doubled_or_swapped(
    theatre: Stage,
    requests: list[Asked],
    answers: list[Told],
    request_cuts: list[int],
    answer_cuts: list[int],
    choices: list[int],
) -> None:
    reset(theatre)
    segments = split(b"".join(request.data for request in requests), request_cuts)
    show = Show(theatre, segments, answers, answer_cuts)
    turn = 0
    while show.step(choices[turn % len(choices)]):
        turn += 1
        assert turn < 5_000, "it does not end"
    if show.client.stuck:
        show.client.take()
        theatre.turn()
        while show.step(1):
            pass
    assert not show.segments
    assert show.seen == [(r.method, r.target, r.body) for r in requests]
    found = answers_in(show.client.written, [r.method for r in requests])
    expected = [
        b"" if r.method == b"HEAD" else answers[place % len(answers)].body for place, r in enumerate(requests)
    ]
    assert [answer.body for answer in found] == expected
    assert [outcome.answer_bytes for outcome in theatre.outcomes] == [len(body) for body in expected]
    assert [outcome.request_bytes for outcome in theatre.outcomes] == [len(r.body) for r in requests]


@RELAXED
@given(told(), CUTS, st.integers(0, 200), st.booleans())
def test_a_cut_answer_is_never_taken_for_whole(
    theatre: Stage, answer: Told, cuts: list[int], short: int, by_reset: bool
) -> None:
    reset(theatre)
    client = theatre.client()
    client.give(b"GET /p/x HTTP/1.1\r\nhost: h\r\n\r\n")
    backend = theatre.connected()
    data = answer.data[: max(0, len(answer.data) - 1 - short)]
    for piece in split(data, cuts):
        backend.give(piece)
    reset_by = ConnectionResetError() if by_reset or answer.framing == "close" else None
    backend.leave(reset_by)
    theatre.turn()
    try:
        (found,) = answers_in(client.written, [b"GET"])
    except Cut:
        assert "client cut" in theatre.take()
        assert client.written.count(b"x-decision-id: ") == 1
        return
    # Nothing of it went out: our own words, and nothing else.
    assert found.status == 502
    assert len(data) < len(answer.head)


# Two readers of the same bytes --------------------------------------------------------------------------
PARTS = [
    b"content-length: 3\r\n", b"content-length: 0\r\n", b"Content-Length: 3\r\n", b"content-length: 03\r\n",
    b"content-length : 3\r\n", b"content-length: 3, 3\r\n", b"content-length:\t3\r\n",
    b"transfer-encoding: chunked\r\n", b"Transfer-Encoding: Chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n", b"transfer-encoding: identity\r\n",
    b"transfer-encoding:\x0bchunked\r\n", b"transfer-encoding : chunked\r\n",
    b"transfer_encoding: chunked\r\n", b"connection: close\r\n", b"connection: upgrade\r\n",
    b"upgrade: websocket\r\n", b"upgrade: h2c\r\n", b"expect: 100-continue\r\n", b"x: y\n", b"x: y\r",
    b"x: y\r\n z\r\n", b"x: \x00\r\n", b": y\r\n", b"x\r\n", b"\n", b"\r\n", b"host: h\r\n",
]  # fmt: skip
BODIES = [
    b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\n\r\n",
    b"03\r\nabc\r\n0\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\nx: y\r\n\r\n", b"0\r\n\r\n", b"",
]  # fmt: skip


@st.composite
def doubtful_request(draw: st.DrawFn) -> bytes:
    line = (
        draw(st.sampled_from([b"GET", b"POST", b"HEAD"]))
        + b" /p/x "
        + draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    )
    fields = draw(st.lists(st.sampled_from(PARTS), max_size=4))
    return line + b"\r\nhost: h\r\n" + b"".join(fields) + b"\r\n" + draw(st.sampled_from(BODIES))


def seen_by_h11(data: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], bool]:
    """(whole requests, whether it refused what followed)."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    found: list[tuple[bytes, bytes, bytes]] = []
    head: h11.Request | None = None
    body = b""
    while True:
        try:
            event: Any = reader.next_event()
        except h11.RemoteProtocolError:
            return found, True
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            found.append((head.method, head.target, body))
            reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.our_state is not h11.DONE or reader.their_state is not h11.DONE:
                return found, False
            reader.start_next_cycle()
        else:
            return found, False


@settings(RELAXED, max_examples=600)
@given(st.lists(doubtful_request(), min_size=1, max_size=3), CUTS)
def test_two_readers_never_understand_a_request_differently(
    theatre: Stage, requests: list[bytes], cuts: list[int]
) -> None:
    """Where we pass a request on, h11 sees the same one; it may see more (it is laxer), never others."""
    reset(theatre)
    data = b"".join(requests)
    answer = Told(
        b"",
        "length",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    )
    show = Show(theatre, split(data, cuts), [answer], [])
    while show.step(0 if not theatre.dials else 1):
        pass
    ours = show.seen
    theirs, refused = seen_by_h11(data)
    common = min(len(ours), len(theirs))
    assert ours[:common] == theirs[:common]
    assert len(ours) <= len(theirs) or refused  # h11 refuses empty lines between requests (RFC 9112 2.2)


@st.composite
def doubtful_answer(draw: st.DrawFn) -> bytes:
    line = (
        draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
        + b" "
        + draw(
            st.sampled_from(
                [b"200 OK", b"200 OK", b"204 No Content", b"304 Not Modified", b"404 No", b"103 Hints"]
            )
        )
    )
    fields = draw(st.lists(st.sampled_from(PARTS), max_size=3))
    return line + b"\r\n" + b"".join(fields) + b"\r\n" + draw(st.sampled_from(BODIES))


def read_by_h11(data: bytes, method: str) -> tuple[int, bytes, bool] | None:
    """(status, body, whole) of the first final answer; None where h11 refuses its head."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    reader.receive_data(b"")
    status, body = 0, b""
    while True:
        try:
            event: Any = reader.next_event()
        except h11.RemoteProtocolError:
            return (status, body, False) if status else None
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body, True
        elif not isinstance(event, h11.InformationalResponse):
            return (status, body, False) if status else None


@settings(RELAXED, max_examples=600)
@given(doubtful_answer(), CUTS, st.sampled_from([b"GET", b"HEAD"]))
def test_two_readers_never_understand_an_answer_differently(
    theatre: Stage, data: bytes, cuts: list[int], method: bytes
) -> None:
    """What our client is given whole, httpx's would have been given whole, byte for byte."""
    reset(theatre)
    client = theatre.client()
    client.give(b"%b /p/x HTTP/1.1\r\nhost: h\r\n\r\n" % method)
    backend = theatre.connected()
    for piece in split(data, cuts):
        if backend.closing:
            break
        backend.give(piece)
    backend.leave()
    theatre.turn()
    try:
        (found,) = answers_in(client.written, [method])
    except Cut:
        return  # seen as broken: the other reader may be laxer
    if found.status == 502:
        return
    theirs = read_by_h11(data, method.decode())
    assert theirs is not None, "h11 refuses what we pass on"
    status, body, whole = theirs
    assert found.status == status
    assert found.body == body
    assert whole or found.status in (204, 304) or method == b"HEAD"


# Anything at all ----------------------------------------------------------------------------------------
EDIT = st.tuples(
    st.integers(0, 400),
    st.integers(0, 3),
    st.one_of(
        st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b" ", b":", b"\x00", b"0", b",", b"\r\n\r\n"])
    ),
)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """``data`` with some bytes cut out and others put in."""
    for place, size, put in edits:
        at = place % (len(data) + 1)
        data = data[:at] + put + data[at + size :]
    return data


SMALL = settings(RELAXED, max_examples=600)
FIRM = (
    b"POST /p/1 HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\nconnection: x\r\nx: y\r\n\r\nabc"
    b"POST /p/2 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3;e\r\nabc\r\n0\r\nt: u\r\n\r\n"
    b"GET /p/ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    b"GET http://h:80/p/3?q=%20 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
)


@SMALL
@given(st.lists(EDIT, min_size=1, max_size=6), CUTS)
def test_edited_requests_are_understood_alike_or_refused(
    theatre: Stage, edits: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    """Nothing raises, nothing is left over, and what a backend gets whole h11 would have read alike."""
    reset(theatre)
    data = edited(FIRM, edits)
    answer = Told(
        b"",
        "length",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    )
    show = Show(theatre, split(data, cuts), [answer], [])
    while show.step(1):
        pass
    ours = [(method, body) for method, _, body in show.seen]
    theirs, refused = seen_by_h11(data)
    rest = iter((method, body) for method, _, body in theirs)  # among them what belongs to no route
    assert all(one in rest for one in ours) or refused
    show.client.leave()
    theatre.turn()
    theatre.clean()


ANSWERS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: x\r\nx: y\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;e\r\nabc\r\n0\r\nt: u\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.0 200 OK\r\n\r\nabc",
    b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nabc",
    b"HTTP/1.1 204 No\r\nkeep-alive: timeout=5\r\n\r\n",
]


@SMALL
@given(
    st.sampled_from(ANSWERS),
    st.lists(EDIT, min_size=1, max_size=5),
    CUTS,
    st.sampled_from([b"/p/x", b"/fall/x", b"/replay/x"]),
    st.booleans(),
)
def test_edited_answers_are_understood_alike_or_broken(
    theatre: Stage,
    data: bytes,
    edits: list[tuple[int, int, bytes]],
    cuts: list[int],
    target: bytes,
    upgrade: bool,
) -> None:
    reset(theatre)
    client = theatre.client()
    wants = b"connection: upgrade\r\nupgrade: websocket\r\n" if upgrade else b""
    client.give(b"GET %b HTTP/1.1\r\nhost: h\r\n%b\r\n" % (target, wants))
    backend = theatre.connected()
    data = edited(data, edits)
    for piece in split(data, cuts):
        if not backend.closing:
            backend.give(piece)
    if not backend.closing:
        backend.leave()
    for _ in range(4):  # whoever stands in fails too
        theatre.wait(1.1)
        while any(not dial.over for dial in theatre.dials):
            theatre.refused()
    if client.written and not client.written.startswith(b"HTTP/1.1 101"):
        try:
            (found,) = answers_in(client.written, [b"GET"])
        except Cut:
            assert client.closing
        else:
            if not found.body.startswith(b'{"error"'):
                theirs = read_by_h11(data, "GET")
                assert theirs is None or (found.status, found.body) == theirs[:2]
    client.leave()
    theatre.turn()
    theatre.clean()
