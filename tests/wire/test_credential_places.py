"""Credentials elsewhere than in ``authorization: Bearer`` and ``x-api-key``: only where the configuration says so."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.wire.messages import get
from tests.wire.rig import Rig


def key(name: str, rest: str) -> str:
    return f'    - {{id: {name}, hash: "sha256:{hashlib.sha256(name.encode()).hexdigest()}", {rest}}}\n'


RIG = {
    "top": "auth:\n  accept: [api-key, x-goog-api-key, basic, websocket]\n  keys:\n"
    + key("app", "scopes: [infer, read]")
    + key("reader", "scopes: [read]"),
    "routes": """\
  passing:
    match: {path: /passing}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    forward_credentials: true
""",
}
SWITCH = b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


def basic(text: bytes) -> bytes:
    return b"authorization: Basic " + base64.b64encode(text)


ACCEPTED = {
    "azure": b"api-key: app",
    "gemini": b"X-Goog-Api-Key: app",
    "basic": basic(b"anyone:app"),
    "basic-user": basic(b"app:"),
}


@pytest.mark.parametrize("line", ACCEPTED.values(), ids=ACCEPTED)
def test_a_key_is_accepted_and_stays_here(rig: Rig, line: bytes) -> None:
    name = line.partition(b":")[0].decode().lower()
    with rig.client() as client:
        client.send(get(b"/p/x", line))
        assert client.answer().status == 200
        client.send(get(b"/passing/x", line))
        assert client.answer().status == 200
        client.send(get(b"/-/routes", line))
        assert client.answer().status == 200
    gone, passed = rig.requests
    assert gone.all(name) == []
    assert passed.all(name) == [line.partition(b": ")[2]]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"api-key: wrong"], 401),
        ([b"api_key: app"], 401),
        ([b"x_goog-api-key: app"], 401),
        ([b"api-key: reader"], 403),
        ([basic(b"app:wrong")], 401),
        ([b"authorization: Basic app"], 401),
        ([b"authorization: Basic " + b"=" * 50], 401),
        ([b"api-key: app", b"x-api-key: app"], 400),
        ([b"sec-websocket-protocol: openai-insecure-api-key.wrong"], 401),
    ],
)
def test_a_key_that_is_refused(rig: Rig, lines: list[bytes], status: int) -> None:
    with rig.client() as client:
        client.send(get(b"/p/x", *lines))
        assert client.answer().status == status
    assert not rig.requests


def test_the_user_names_of_basic_fill_no_memory(rig: Rig) -> None:
    cache = rig.worker.snapshot.authenticator.cache
    before = len(cache)
    with rig.client() as client:
        for number in range(20):
            client.send(get(b"/p/x", basic(b"%d:app" % number)))
            assert client.answer().status == 200
    assert len(cache) == before


def test_a_key_among_the_subprotocols_of_a_websocket(rig: Rig) -> None:
    """As OpenAI's Realtime API takes it from web pages."""
    rig.a.plans.append([SWITCH])
    offered = b"sec-websocket-protocol: realtime, openai-insecure-api-key.app, openai-beta.realtime-v1"
    with rig.client() as client:
        client.send(get(b"/p/ws", b"connection: upgrade", b"upgrade: websocket", offered))
        assert client.answer().status == 101
    (request,) = rig.requests
    assert request.all("sec-websocket-protocol") == [b"realtime, openai-beta.realtime-v1"]
    assert request.all("x-api-key") == []
