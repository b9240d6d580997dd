"""`limits.connections` over HTTP/2: a connection beyond it gets one error response and ends."""

from __future__ import annotations

import json

import pytest

from tests.http2.client import Client
from tests.http2.raw import AUTHORITY, SCHEME, headers
from tests.wire.rig import Rig

RIG = {"limits": "connections: 2, header_timeout: 1s"}
GET = [(b":method", b"GET"), SCHEME, AUTHORITY, (b":path", b"/p")]
HEALTH = [(b":method", b"GET"), SCHEME, AUTHORITY, (b":path", b"/-/healthz")]


@pytest.mark.long
def test_a_connection_beyond_the_limit(rig: Rig) -> None:
    with Client(rig.port) as first, Client(rig.port) as second:
        assert first.request(headers(GET)).status == second.request(headers(GET)).status == 200
        with Client(rig.port) as late:
            reply = late.request(headers(GET))
            assert reply.status == 503
            assert json.loads(reply.body)["error"]["code"] == "too_many_connections"
            assert late.read_to_end().goaway == "NO_ERROR"
        with Client(rig.port) as late:
            assert late.request(headers(HEALTH)).status == 200
            assert late.read_to_end().goaway == "NO_ERROR"
        with Client(rig.port) as silent:
            assert silent.read_to_end().goaway == "NO_ERROR"
        assert first.request(headers(GET, 3), 3).status == second.request(headers(GET, 3), 3).status == 200
