"""Two readers of the same doubtful bytes, ours and h11, never understand them differently."""

from __future__ import annotations

from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.shows import CUTS, RELAXED, Show, Told, answers_in, reset, split, theatre
from tests.support.client import Cut
from tests.support.stage import Stage

__all__ = ["theatre"]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
EMPTY = Told(b"", "length", OK, OK)


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
    show = Show(theatre, split(data, cuts), [EMPTY], [])
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
    show = Show(theatre, split(data, cuts), [EMPTY], [])
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
