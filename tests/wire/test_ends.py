"""Clients that leave half-way, and upgrades that are refused: what follows is the next request, or nothing."""

from __future__ import annotations

import pytest

from tests.support.backend import CLOSE, HOLD, ok
from tests.support.client import PATIENCE, Cut
from tests.wire.messages import get, kept, marker, post
from tests.wire.rig import SOON, Rig

# Small enough for every limit to be reached in a moment
RIG = {"limits": "head: 16KiB, fields: 20, target: 2KiB, control_body: 100KiB, pipeline: 16"}


# Half-closed and gone -----------------------------------------------------------------------------------
def test_a_half_close_counts_as_gone(rig: Rig) -> None:
    """It can't be told from a close, and a backend must not work for somebody who has left."""
    rig.a.plans.append([HOLD])
    with rig.client() as client:
        client.send(get(b"/large/x"))
        rig.until(lambda: rig.requests)
        client.finish()
        rig.until(lambda: not rig.a.connections[0].open, SOON)
        assert client.at_end()


def test_a_half_close_behind_an_answer(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get())
        assert client.answer().status == 200
        client.finish()
        assert client.at_end()


# Upgrades that are refused ------------------------------------------------------------------------------
UPGRADE = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")


def test_what_follows_an_upgrade_that_the_backend_refuses_is_the_next_request(rig: Rig) -> None:
    rig.a.plans.append([0.02, ok(b"no upgrade")])
    with rig.client() as client:
        client.send(get(b"/p/up", *UPGRADE) + get(b"/p/next"))
        assert client.answer().body == b"no upgrade"
        assert client.answer().body == marker(b"GET", b"/p/next")
        assert kept(client)
    assert rig.requests[0].all("connection") == [b"upgrade"]
    assert rig.requests[0].all("upgrade") == [b"websocket"]


@pytest.mark.parametrize("target", [b"/none", b"/-/healthz", b"/dead"])
def test_what_follows_an_upgrade_that_we_refuse_is_the_next_request(rig: Rig, target: bytes) -> None:
    with rig.client() as client:
        client.send(get(target, *UPGRADE) + get(b"/p/next"))
        client.answer()
        assert client.answer().body == marker(b"GET", b"/p/next")
        assert kept(client)


def test_thousands_of_refused_upgrades_in_one_segment(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/none", *UPGRADE) * 2000 + get(b"/p/last"))
        for _ in range(2000):
            assert client.answer().status == 404
        assert client.answer().body == marker(b"GET", b"/p/last")


def test_a_refused_upgrade_answered_with_its_body_in_pieces(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 6\r\n\r\nabc", 0.01, b"def"])
    with rig.client() as client:
        client.send(get(b"/p/up", *UPGRADE), 0.005, get(b"/p/next")[:10], 0.005, get(b"/p/next")[10:])
        answer = client.answer()
        assert (answer.status, answer.body) == (426, b"abcdef")
        assert client.answer().body == marker(b"GET", b"/p/next")


def test_an_upgrade_behind_another_request(rig: Rig) -> None:
    rig.a.plans.extend([[HOLD, ok(b"first")], [ok(b"no upgrade")]])
    with rig.client() as client:
        client.send(get() + get(b"/p/up", *UPGRADE) + get(b"/p/next"))
        rig.until(lambda: rig.requests)
        rig.call(rig.a.released.set)
        assert client.answer().body == b"first"
        assert client.answer().body == b"no upgrade"
        assert client.answer().body == marker(b"GET", b"/p/next")


@pytest.mark.long
def test_bytes_behind_an_upgrade_are_held_within_bounds(rig: Rig) -> None:
    rig.a.plans.append([HOLD, ok(b"no upgrade")])
    with rig.client() as client:
        client.socket.settimeout(0.5)
        client.send(get(b"/p/up", *UPGRADE))
        rig.until(lambda: rig.requests)
        body = post(b"/none", b"x" * 20_000)
        try:
            for _ in range(2000):
                client.socket.sendall(body)
        except TimeoutError:
            pass
        (connection,) = rig.connections
        assert connection.pauses
        assert len(connection.backlog) < 1 << 20
        rig.call(rig.a.released.set)
        client.socket.settimeout(PATIENCE)
        assert client.answer().body == b"no upgrade"
        assert client.answer().status == 404


def test_a_reset_client_is_noticed_while_nothing_is_read(rig: Rig) -> None:
    rig.a.plans.append([HOLD])
    client = rig.client()
    client.send(get(b"/large/x") + get(b"/n/x") * 3000)
    rig.until(lambda: rig.requests)
    (connection,) = rig.connections
    rig.until(lambda: connection.pauses)
    client.reset()
    rig.until(lambda: not rig.connections, SOON)
    rig.until(lambda: not rig.a.connections[0].open, SOON)


@pytest.mark.long
def test_a_cut_answer_is_seen_as_cut(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", 0.01, CLOSE])
    with rig.client() as client:
        client.send(get())
        with pytest.raises(Cut):
            client.answer()
