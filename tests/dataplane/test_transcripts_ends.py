"""Transcripts of ends: clients that are slow, responses that come to nothing, the end of the process, tunnels."""

from __future__ import annotations

import pytest

from tests.dataplane.play import OK, Line, perform
from tests.support.stage import Stage

PART = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"
UPGRADE = "GET /p/ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
SWITCHED = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
LONG = "x" * 90_000
"""More than a transport takes before it asks for a pause."""

TRANSCRIPTS: dict[str, list[Line]] = {
    # Clients
    "a-body-that-stops": [
        ("client> POST /p/x HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nab", "a dialled"),
        ("a connects", "a< POST /p/x | content-length: 4 | ab"),
        ("4.9 s",),
        (
            "1.2 s",
            "a cut",
            "client< 408 Request Timeout | connection: close | request_timeout",
            "recorded 408 good v1>-",
            "client ended",
        ),
        ("2.1 s", "client cut"),
    ],
    "a-client-that-takes-nothing": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("client sticks",),
        (
            f"a> HTTP/1.1 200 OK\r\ncontent-length: 90001\r\n\r\n{LONG}",
            f"client< 200 OK | content-length: 90001 | {LONG}",
        ),
        ("4.0 s",),  # it is no fault of the backend's that nothing comes
        ("3.0 s", "client cut", "a cut", "recorded 499 client_left v1>v1"),
    ],
    "a-client-that-takes-nothing-before-the-head-comes": [
        ("client GET /p/1", "a dialled"),
        ("a connects", "a< GET /p/1"),
        ("client sticks",),
        (
            f"a> HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{LONG[:60_000]}",
            f"client< 200 OK | content-length: 60000 | {LONG[:60_000]}",
            "recorded 200 good v1>v1",
        ),
        ("client GET /p/2", "a< GET /p/2"),
        (
            f"a> HTTP/1.1 103 Early Hints\r\nlink: {LONG[:8_000]}\r\n\r\n{PART}",
            f"client< 103 Early Hints | link: {LONG[:8_000]}",
            "client< 200 OK | content-length: 4 | ab",
        ),
        ("4.0 s",),
        ("3.0 s", "client cut", "a cut", "recorded 499 client_left v1>v1"),
    ],
    # Responses that come to nothing
    "a-bad-chunk-after-an-early-head": [
        (
            "client> POST /p/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
            "a dialled",
        ),
        ("a connects", "a< POST /p/x | transfer-encoding: chunked | 2\r\nab\r\n"),
        (
            f"a> {PART}",
            "client< 200 OK | content-length: 4, connection: close | ab",
        ),
        ("client> xyz\r\n", "a cut", "recorded 499 client_left v1>v1", "client cut"),
    ],
    "an-error-status-with-a-fixed-answer": [
        ("client GET /fixed/x", "a dialled"),
        ("a connects", "a< GET /fixed/x"),
        (
            "a> HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nno",
            "client< 200 OK | content-length: 5 | fixed",
            "recorded 200 backend_status v1>-",
        ),
        ("a closes",),
    ],
    "an-error-status-with-too-much-to-read": [
        ("client GET /fall/x", "a dialled"),
        ("a connects", "a< GET /fall/x"),
        ("a> HTTP/1.1 503 Busy\r\ncontent-length: 90001\r\n\r\n", "b dialled"),
        (f"a> {LONG}", "a cut"),
        ("b connects", "b< GET /fall/x"),
        (f"b> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 backend_status v1>v2"),
    ],
    "the-total-time-ends-before-the-next-try": [
        ("client> POST /replay/x HTTP/1.1\r\nhost: h\r\ncontent-length: 90001\r\n\r\na", "a dialled"),
        ("a connects", "a< POST /replay/x | content-length: 90001 | a"),
        *[(("4.2 s",), (f"client> {LONG[:9_000]}", f"a< {LONG[:9_000]}"))[n % 2] for n in range(14)],
        ("0.4 s",),
        ("a closes",),
        (
            "0.4 s",
            "client< 504 Gateway Timeout | connection: close | backend_total_timeout",
            "recorded 504 backend_total_timeout v1>-",
            "client ended",
        ),
    ],
    # The process ends
    "the-end-for-an-idle-connection": [
        ("client GET /fixed/x", "a dialled"),
        ("a refuses", "client< 200 OK | content-length: 5 | fixed", "recorded 200 backend_connect v1>-"),
        ("client drains",),
        ("3.1 s", "client closed"),
    ],
    "the-end-at-once-for-an-idle-connection": [
        ("client GET /fixed/x", "a dialled"),
        ("a refuses", "client< 200 OK | content-length: 5 | fixed", "recorded 200 backend_connect v1>-"),
        ("client ends", "client cut"),
    ],
    "the-end-while-a-body-is-awaited": [
        ("client> POST /body/x HTTP/1.1\r\nhost: h\r\ncontent-length: 12\r\n\r\n{",),
        ("client drains",),
        (
            "client ends",
            "client< 503 Service Unavailable | retry-after: 1, connection: close | draining",
            "client ended",
        ),
    ],
    "the-end-while-an-answer-is-awaited": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("client drains",),
        (
            "client ends",
            "a cut",
            "client< 503 Service Unavailable | retry-after: 1 | draining",
            "recorded 503 draining v1>-",
            "client cut",
        ),
    ],
    "the-end-while-an-answer-comes": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        (
            f"a> {PART}",
            "client< 200 OK | content-length: 4 | ab",
        ),
        ("client drains",),
        ("client ends", "a cut", "recorded 200 draining v1>v1", "client cut"),
    ],
    # Tunnels
    "a-tunnel-whose-client-is-slow": [
        (f"client> {UPGRADE}", "a dialled"),
        ("a connects", "a< GET /p/ws | connection: upgrade, upgrade: websocket"),
        (
            f"a> {SWITCHED}",
            "client< 101 Switching Protocols | connection: upgrade, upgrade: websocket",
        ),
        ("client> up", "a< up"),
        ("client sticks",),
        (f"a> {LONG}", f"client< {LONG}"),
        ("a rests",),
        ("client takes",),
        ("a> down", "client< down"),
        ("client drains", "client closed", "a closed", "recorded 101 good v1>v1"),
    ],
    "a-tunnel-whose-client-takes-no-more": [
        (f"client> {UPGRADE}", "a dialled"),
        ("a connects", "a< GET /p/ws | connection: upgrade, upgrade: websocket"),
        (
            f"a> {SWITCHED}",
            "client< 101 Switching Protocols | connection: upgrade, upgrade: websocket",
        ),
        ("client sticks",),
        ("a> down", "client< down"),
        ("a closes", "client closed", "recorded 101 good v1>v1"),
        ("4.9 s",),
        ("0.2 s", "client cut"),
    ],
    "the-end-while-a-tunnel-waits-for-its-client": [
        (f"client> {UPGRADE}", "a dialled"),
        ("a connects", "a< GET /p/ws | connection: upgrade, upgrade: websocket"),
        (
            f"a> {SWITCHED}",
            "client< 101 Switching Protocols | connection: upgrade, upgrade: websocket",
        ),
        ("client sticks",),
        (f"a> {LONG}", f"client< {LONG}"),
        ("a rests",),
        ("client drains", "client closed"),
        ("client ends", "a closed", "recorded 101 good v1>v1", "client cut"),
    ],
    "the-end-while-the-last-bytes-of-a-tunnel-wait": [
        (f"client> {UPGRADE}", "a dialled"),
        ("a connects", "a< GET /p/ws | connection: upgrade, upgrade: websocket"),
        (
            f"a> {SWITCHED}",
            "client< 101 Switching Protocols | connection: upgrade, upgrade: websocket",
        ),
        ("client sticks",),
        ("a> down", "client< down"),
        ("a closes", "client closed", "recorded 101 good v1>v1"),
        ("client ends", "client cut"),
    ],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(stage: Stage, name: str) -> None:
    perform(stage, TRANSCRIPTS[name])
