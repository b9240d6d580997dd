"""The corpus on a socket of the real gateway: refused or transparent, and the backend sees nothing that is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http2.case import Case
from tests.http2.client import Client
from tests.http2.corpus import CASES
from tests.http2.raw import ECHO, GOOD, headers
from tests.wire.rig import Rig

RIG = {"routes": ECHO}
SMUGGLED = (b"smuggled", b"injected", b"evil", b"\r\n\r\nGET")


def pieces(case: Case, step: int) -> Iterator[bytes]:
    for place in range(0, len(case.sent), step):
        yield case.sent[place : place + step]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(rig: Rig, case: Case) -> None:
    check(rig, case, step=len(case.sent))


@pytest.mark.parametrize(
    "case", [case for case in CASES[::6] if len(case.sent) < 400], ids=lambda case: case.name
)
def test_case_by_bytes(rig: Rig, case: Case) -> None:
    check(rig, case, step=1)


def check(rig: Rig, case: Case, step: int) -> None:
    verdict, _, code = (case.gateway or case.expected).partition(" ")
    with Client(rig.port, hello=b"") as client:
        for piece in pieces(case, step):
            client.send(piece)
        if verdict == "goaway":
            assert client.read_to_end().goaway == code
        elif verdict == "http1":
            assert client.socket.recv(1000).startswith(b"HTTP/1.1 %b" % code.encode())
        else:
            reply = client.reply()
            # The response was out before the frame came: that ends the connection, perhaps only now.
            closed = code == "STREAM_CLOSED" and reply.ended
            if verdict == "reset":
                assert closed or reply.reset == code, reply
            else:
                assert (reply.status, reply.reset) in {(int(verdict), ""), (int(verdict), "NO_ERROR")}
            if not closed:
                assert client.request(headers(GOOD, 101), 101).status == 200
    for request in rig.requests:
        assert not any(needle in request.head for needle in SMUGGLED), request.head
        assert request.line.startswith((b"POST /echo", b"OPTIONS *"))
        assert len(request.all("host")) == 1
        assert not (request.all("content-length") and request.all("transfer-encoding"))
