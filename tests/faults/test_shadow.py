"""Shadows: whatever they do, the client's own request does not feel it, and every copy is accounted for."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.rig import FaultRig, request
from tests.faults.shadowed import CONFIG, NAMES, counts, forget, row, settled, until_active
from tests.support.backend import CLOSE, HOLD, RESET, Step, ok

__all__ = ["CONFIG", "NAMES"]


@pytest.fixture(autouse=True)
def start(rig: FaultRig) -> None:
    forget(rig)


# What a copy is --------------------------------------------------------------------------------------


def test_a_copy_is_the_request_and_leaves_behind_the_answer(rig: FaultRig) -> None:
    rig.next("a", 0.1, ok(b"the answer"))
    with rig.client() as client:
        client.send(request("/one", body=b'{"x": 1}', lines=b"x-own: 1\r\nauthorization: Bearer secret\r\n"))
        time.sleep(0.05)
        assert rig.backends["s"].requests == []
        assert client.answer().body == b"the answer"
    rig.until(lambda: rig.backends["s"].requests)
    (copy,) = rig.backends["s"].requests
    assert (copy.line, copy.body) == (b"POST /one HTTP/1.1", b'{"x": 1}')
    assert copy.all("x-own") == [b"1"]
    assert copy.all("host") == [b"127.0.0.1:%d" % rig.backends["s"].port]
    settled(rig)
    assert counts(rig, "one") == {"offered": 1, "sent": 1}


def test_a_shadow_has_connections_of_its_own(rig: FaultRig) -> None:
    with rig.client() as client:
        for _ in range(5):
            client.send(request("/same"))
            client.answer()
            settled(rig)
    asked = {r.target: r.connection for r in rig.backends["a"].requests}
    assert set(asked) == {b"/same", b"/other"}
    primary = {r.connection for r in rig.backends["a"].requests if r.target == b"/same"}
    shadow = {r.connection for r in rig.backends["a"].requests if r.target == b"/other"}
    assert len(primary) == len(shadow) == 1
    assert not primary & shadow


@pytest.mark.long
def test_several_shadows_share_one_body(rig: FaultRig) -> None:
    rig.always("s", HOLD)
    rig.always("t", HOLD)
    body = bytes(50_000)
    rig.ask("/two", body=body)
    rig.until(lambda: rig.backends["s"].requests and rig.backends["t"].requests)
    shadow = rig.shadow
    assert shadow.running == 2
    assert len(body) < shadow.held < len(body) + 3000  # once, and two heads
    first, second = shadow._running
    assert first.parts[1] is second.parts[1]
    rig.until(lambda: len(rig.shadowed) == 2)
    assert {r.body for n in "st" for r in rig.backends[n].requests} == {body}
    assert {r.error for r in rig.shadowed} == {"backend_total_timeout"}


def test_shares_are_exact(rig: FaultRig) -> None:
    with rig.client() as client:
        for _ in range(100):
            client.send(request("/third"))
            client.answer()
            settled(rig)
    assert counts(rig, "third", "shade") == {"offered": 30, "sent": 30}
    assert counts(rig, "third", "tint") == {"offered": 5, "sent": 5}
    assert (len(rig.backends["s"].requests), len(rig.backends["t"].requests)) == (30, 5)


def test_a_copy_has_the_model_of_its_variant(rig: FaultRig) -> None:
    rig.ask("/model", body=b'{"model":"mine","x":1}')
    rig.until(lambda: rig.backends["s"].requests)
    rig.until(lambda: rig.backends["s"].requests[0].complete)
    assert rig.backends["a"].requests[0].body == b'{"model":"mine","x":1}'
    (copy,) = rig.backends["s"].requests
    assert copy.body == b'{"model":"another","x":1}'
    assert copy.all("content-length") == [b"25"]


def test_a_chunked_request_is_copied_whole(rig: FaultRig) -> None:
    with rig.client() as client:
        client.send(b"POST /one HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        client.send(0.02, b"2\r\nde\r\n0\r\n\r\n")
        client.answer()
    rig.until(lambda: rig.backends["s"].requests and rig.backends["s"].requests[0].complete)
    assert rig.backends["s"].requests[0].body == b"abcde"


# What a shadow may do --------------------------------------------------------------------------------

ENDLESS: Sequence[Step] = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
    *[step for _ in range(200) for step in (bytes(65536), 0.001)],
]
BAD: dict[str, tuple[Sequence[Step], str]] = {
    "hangs": ((HOLD,), "backend_total_timeout"),
    "resets": ((RESET,), "backend_reset"),
    "closes": ((CLOSE,), "backend_reset"),
    "garbage": ((b"\x00\x01 what\r\n\r\n",), "backend_protocol"),
    "breaks-off": ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", CLOSE), "backend_truncated"),
    "stalls": ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", HOLD), "backend_total_timeout"),
    "answers-1-gib": (ENDLESS, "shadow_answer_too_large"),
    "trickles": ([s for b in b"HTTP/1.1 200 OK\r\n" for s in (bytes((b,)), 0.1)], "backend_total_timeout"),
    "answers-500": ((ok(status=b"500 Ill"),), "backend_status"),
}


@pytest.mark.parametrize("fault", BAD)
def test_the_client_does_not_feel_it(rig: FaultRig, fault: str) -> None:
    steps, error = BAD[fault]
    rig.always("s", *steps)
    with rig.client() as client:
        for _ in range(3):
            client.send(request("/one"))
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b"a|POST|/one|2")
    rig.until(lambda: len(rig.shadowed) == 3)
    assert {r.error for r in rig.shadowed} == {error}
    assert {(r.agrees, r.difference, r.primary, r.shadow) for r in rig.shadowed} == {
        (None, None, "v1", "shade")
    }
    assert all(o.error == "" for o in rig.recorded(3))
    settled(rig)
    assert counts(rig, "one") == {"offered": 3, "sent": 3, "failed": 3}
    rig.until(
        lambda: all(c.handler is None for x in rig.gateway.registry.addresses.values() for c in x.connections)
    )


def test_refused(rig: FaultRig) -> None:
    rig.ask("/dead")
    assert row(rig).error == "backend_connect"


@pytest.mark.long
def test_one_that_fails_again_and_again_is_left_alone_for_a_while(rig: FaultRig) -> None:
    for _ in range(6):
        rig.ask("/dead")
        settled(rig)
    assert counts(rig, "dead") == {"offered": 6, "sent": 5, "failed": 5, "dropped:unhealthy": 1}
    rig.until(lambda: _rested(rig))
    rig.ask("/dead")
    settled(rig)
    assert counts(rig, "dead")["sent"] == 6


def _rested(rig: FaultRig) -> bool:
    lanes = rig.shadow._queues.values()
    return not any(lane.health.ejected(time.perf_counter()) for lane in lanes)


def test_a_client_that_left_needs_no_copy_of_half_a_request(rig: FaultRig) -> None:
    with rig.client() as client:
        client.send(b"POST /one HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nabc")
        rig.until(lambda: rig.backends["a"].requests)
    rig.until(lambda: rig.outcomes)
    settled(rig)
    assert counts(rig, "one") == {"offered": 1, "dropped:request_incomplete": 1}


# Bounds ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_full_queue_drops_and_counts(rig: FaultRig) -> None:
    rig.always("s", HOLD)
    with rig.client() as client:
        for _ in range(20):
            client.send(request("/one"))
            assert client.answer().status == 200
    found = counts(rig, "one")
    shadow = rig.shadow
    assert shadow.running == 4
    assert found["offered"] == 20 == found["sent"] + found["dropped:queue_full"] + shadow.waiting
    assert shadow.waiting == 8
    assert found["dropped:queue_full"]  # eight, or fewer where copies have timed out meanwhile
    settled(rig)
    done = counts(rig, "one")
    assert done["offered"] == done["sent"] + sum(n for e, n in done.items() if e.startswith("dropped"))


def test_bytes_are_bounded_with_those_under_way(rig: FaultRig) -> None:
    rig.always("s", HOLD)
    with rig.client() as client:
        for _ in range(6):
            client.send(request("/one", body=bytes(60_000)))
            assert client.answer().status == 200
            assert rig.shadow.held <= 256 * 1024
    assert counts(rig, "one")["dropped:queue_bytes"] == 2
    settled(rig)


@pytest.mark.long
def test_a_hanging_shadow_leaves_room_for_another(rig: FaultRig) -> None:
    rig.always("s", HOLD)
    with rig.client() as client:
        client.send(request("/two"))
        client.answer()
        rig.until(lambda: rig.backends["t"].requests)
        for _ in range(15):
            client.send(request("/two"))
            client.answer()
            rig.until(lambda: rig.shadow.running <= 2)
    rig.until(lambda: len(rig.backends["t"].requests) == 16)
    assert counts(rig, "two", "tint") == {"offered": 16, "sent": 16}
    assert counts(rig, "two", "shade")["dropped:queue_full"] > 0
    settled(rig)


@pytest.mark.parametrize("how", ["busy", "crowded"])
def test_under_load_copies_go_first(rig: FaultRig, how: str) -> None:
    if how == "busy":
        rig.call(setattr, rig.worker._ticker, "_second", math.inf)  # the load is not measured meanwhile
        rig.call(setattr, rig.worker.load, "busy", 1.0)
    rig.always("a", HOLD)
    clients = [rig.client() for _ in range(55 if how == "crowded" else 2)]
    for number, client in enumerate(clients):
        client.send(request("/one"))
        until_active(rig, number + 1)
    found = counts(rig, "one")
    assert found["dropped:load"] == (2 if how == "busy" else 5)
    for client in clients:
        client.socket.close()
    rig.until(lambda: not rig.worker.active)
    rig.call(setattr, rig.worker.load, "busy", 0.0)
    rig.call(setattr, rig.worker._ticker, "_second", 0.0)
    settled(rig)


@pytest.mark.parametrize("size", [2_000, 200_000], ids=["in one packet", "in many"])
def test_a_body_above_the_limit_is_not_copied(rig: FaultRig, size: int) -> None:
    """Also where all of it was there before the backend's connection."""
    assert rig.ask("/kept", body=bytes(size)).status == 200
    settled(rig)
    found = counts(rig, "kept")
    assert (found["offered"], found["dropped:body_too_large"], found["sent"]) == (1, 1, 0)
    assert rig.shadow.large_bodies() == (1, {"kept": 1})


@pytest.mark.long
def test_an_edit_changes_the_limits(rig: FaultRig) -> None:
    rig.edit(CONFIG.replace("waiting: 8", "waiting: 1").replace("in_flight: 4", "in_flight: 1"))
    try:
        rig.always("s", HOLD)
        for _ in range(4):
            rig.ask("/one")
        assert counts(rig, "one")["dropped:queue_full"] == 2
        settled(rig)
    finally:
        rig.edit(CONFIG)


def test_the_live_figures_count_them(rig: FaultRig) -> None:
    rig.ask("/one")
    settled(rig)
    live = rig.call(rig.gateway.api.route_status, "one")
    assert live is not None
    assert dict(live.shadow_counts["shade"]) == {"offered": 1, "sent": 1}


def test_a_handshake_is_not_copied(rig: FaultRig) -> None:
    """The shadow would switch and be cut, five times in a row, and get no copies of plain requests any more."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    lines = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    for _ in range(6):
        rig.next("a", switch)
        rig.next("s", switch)
        with rig.client() as client:
            client.send(request("/one", method=b"GET", body=b"", lines=lines))
            assert client.answer().status == 101
    rig.until(lambda: len(rig.outcomes) == 6)
    assert rig.backends["s"].requests == []
    assert counts(rig, "one") == Counter()
    rig.backends["s"].plans.clear()
    assert rig.ask("/one").status == 200
    settled(rig)
    assert counts(rig, "one") == Counter({"offered": 1, "sent": 1})


def test_the_end_of_the_process_leaves_no_copy_under_way(tmp_path: Path) -> None:
    """A request that is cut short then would have had one."""
    rig = FaultRig(tmp_path, CONFIG, NAMES)
    rig.start()
    shadow = rig.shadow
    try:
        rig.next("a", HOLD)
        rig.next("s", HOLD)
        with rig.client() as client:
            client.send(request("/one"))
            until_active(rig, 1)
            rig.run(rig.gateway.stop())
            assert (shadow.waiting, shadow.running, shadow.held) == (0, 0, 0)
            assert client.answer().code == "draining"
    finally:
        rig.stop()
    assert counts(rig, "one")["offered"] == 1


def test_a_copy_asks_for_codings_that_can_be_compared(rig: FaultRig) -> None:
    assert rig.ask("/one", lines=b"Accept-Encoding: br, zstd, gzip\r\n").status == 200
    settled(rig)
    assert rig.backends["a"].requests[0].all("accept-encoding") == [b"br, zstd, gzip"]
    assert rig.backends["s"].requests[0].all("accept-encoding") == [b"gzip, deflate"]
