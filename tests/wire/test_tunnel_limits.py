"""WebSockets hold no place that requests need, are limited in number and age, and end with their key."""

from __future__ import annotations

import contextlib
import re
import time

import pytest

from tests.wire.rig import Rig
from tests.wire.test_credentials import key
from tests.wire.test_tunnel import SWITCH, upgrade

RIG = {
    "limits": "websockets: 3, websocket_life: 2s, idle_timeout: 30s",
    "top": "auth:\n  keys:\n" + key("stays", "scopes: [infer]") + key("goes", "scopes: [infer]"),
}


def opened(rig: Rig, client: object, target: bytes = b"/p/ws", who: bytes = b"stays") -> int:
    rig.a.plans.append([SWITCH])
    client.send(upgrade(target, b"x-api-key: " + who))  # type: ignore[attr-defined]
    return int(client.answer().status)  # type: ignore[attr-defined]


def test_a_tunnel_holds_no_place_at_the_backend(rig: Rig) -> None:
    """S31: `limit.in_flight: 1` and one WebSocket, and everybody else was 503."""
    with rig.client() as tunnel, rig.client() as other:
        assert opened(rig, tunnel, b"/narrow/ws") == 101
        rig.a.plans.clear()
        other.send(b"GET /narrow/x HTTP/1.1\r\nhost: h\r\nx-api-key: stays\r\n\r\n")
        assert other.answer().status == 200
        known = rig.gateway.registry.addresses.items()
        (address,) = [a for (endpoint, shadow), a in known if endpoint.port == rig.a.port and not shadow]
        rig.until(lambda: not rig.worker.active)  # the request has ended for the gateway too
        assert address.in_flight == 1, "the tunnel counts where load is compared"


def test_there_are_no_more_than_may_be(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(4)]
        assert [opened(rig, client) for client in clients[:3]] == [101] * 3
        asked = len(rig.requests)
        clients[3].send(upgrade(b"/p/ws", b"x-api-key: stays"))
        answer = clients[3].answer()
        assert (answer.status, answer.code) == (503, "too_many_websockets")
        assert answer.all("retry-after") == [b"1"]
        assert len(rig.requests) == asked, "the backend was not asked"
        rig.a.plans.clear()
        clients[0].socket.close()
        rig.until(lambda: len(rig.worker.tunnels) == 2)
        with rig.client() as late:
            assert opened(rig, late) == 101


def test_two_that_come_at_once_do_not_both_pass(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(4)]
        for client in clients:
            rig.a.plans.append([0.1, SWITCH])
            client.send(upgrade(b"/p/ws", b"x-api-key: stays"))
        assert sorted(client.answer().status for client in clients) == [101, 101, 101, 503]


@pytest.mark.long
def test_it_ends_when_it_is_old(rig: Rig) -> None:
    with rig.client() as client:
        assert opened(rig, client) == 101
        begun = time.monotonic()
        while time.monotonic() < begun + 1.5:
            client.send(b"x", 0.1)  # it is not silent
        assert len(rig.worker.tunnels) == 1
        assert client.at_end()
    rig.until(lambda: not rig.worker.tunnels)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["withdrawn", "other scopes", "other routes"])
def test_it_ends_with_its_key(rig: Rig, change: str) -> None:
    path = rig.folder / "turnout.yaml"
    before = path.read_text()
    line = key("goes", "scopes: [infer]")
    after = {
        "withdrawn": "",
        "other scopes": key("goes", "scopes: [read]"),
        "other routes": key("goes", "scopes: [infer], routes: [small]"),
    }[change]
    with rig.client() as stays, rig.client() as goes:
        assert opened(rig, goes, who=b"goes") == 101
        put(rig, before.replace(line, after))
        assert goes.at_end()
        assert opened(rig, stays) == 101
        put(rig, before)


def put(rig: Rig, text: str) -> None:
    assert re.search("keys:\n +-", text)
    rig.run(rig.gateway.api.revisions.propose(text, "test", rig.gateway.api.revision().etag))
