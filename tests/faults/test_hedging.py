"""A second copy to another address when the first takes long: the first answer wins, the loser ends at once."""

from __future__ import annotations

import time

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import HOLD, RESET, Step, ok

CONFIG = """
backends:
  pair: {urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"], ejection: null}
  single: {url: "http://127.0.0.1:@A@", ejection: null}
routes:
  all:
    match: {path: /all}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1, replayable: true}
    hedge: {after: 80ms, max_share: 100%}
    timeouts: {first_byte: 1500ms}
  late:
    match: {path: /late}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1, replayable: true}
    hedge: {after: 1s, max_share: 100%}
  few:
    match: {path: /few}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1, replayable: true}
    hedge: {after: 20ms, max_share: 20%}
    timeouts: {first_byte: 150ms}
  single:
    match: {path: /single}
    variants: {v1: {backend: single}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1, replayable: true}
    hedge: {after: 20ms, max_share: 100%}
    timeouts: {first_byte: 200ms}
"""


@pytest.fixture(autouse=True)
def first_to_a(rig: FaultRig) -> None:
    """Chance always names the first address first."""
    for route in ("all", "late", "few"):
        backend = rig.worker.snapshot.routes[route].variants["v1"].backend
        backend.chance = lambda: 0.0
    for route in ("all", "few"):
        plan = rig.worker.snapshot.routes[route].hedge
        assert plan is not None
        plan.credit = 0.0


def ended(rig: FaultRig, name: str) -> None:
    """The connection of the only request that ``name`` got is closed."""
    rig.until(lambda: not any(c.open for c in rig.backends[name].connections))


def test_the_copy_wins(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    answer = rig.ask("/all", body=b'{"x": 1}')
    assert answer.body == b"b|POST|/all|8"
    assert [r.body for n in "ab" for r in rig.backends[n].requests] == [b'{"x": 1}'] * 2
    ended(rig, "a")
    found = rig.outcome()
    assert (found.status, found.error, found.assigned, found.served) == (200, "", "v1", "v1")
    assert not found.fallback
    assert rig.attempts() == [("v1", "hedged")]
    # The wait of 80 ms for the first one is neither the gateway's time nor that of the attempt that served.
    assert found.backend_ms + found.gateway_ms < found.total_ms - 75


def test_the_first_wins(rig: FaultRig) -> None:
    rig.next("a", 0.2, ok(b"first"))
    rig.next("b", HOLD)
    assert rig.ask("/all").body == b"first"
    ended(rig, "b")
    assert (rig.outcome().error, rig.attempts()) == ("", [("v1", "hedge_lost")])


def test_a_quick_answer_needs_no_copy(rig: FaultRig) -> None:
    assert rig.ask("/late").body == b"a|POST|/late|2"
    time.sleep(1.2)
    assert rig.backends["b"].requests == []
    assert rig.outcome().attempts == ""


@pytest.mark.parametrize("failure", [(ok(status=b"500 Ill"),), (RESET,), (b"garbage\r\n\r\n",)])
def test_a_copy_that_fails_changes_nothing(rig: FaultRig, failure: tuple[Step, ...]) -> None:
    rig.next("a", 0.3, ok(b"first"))
    rig.next("b", *failure)
    assert rig.ask("/all").body == b"first"
    ((variant, result),) = rig.attempts()
    assert variant == "v1"
    assert result in (500, "backend_reset", "backend_protocol")
    assert rig.outcome().error == ""


def test_the_copy_goes_on_when_the_first_fails(rig: FaultRig) -> None:
    rig.next("a", 0.15, RESET)
    rig.next("b", 0.3, ok(b"second"))
    answer = rig.ask("/all")
    assert (answer.status, answer.body) == (200, b"second")
    assert rig.attempts() == [("v1", "backend_reset")]
    assert rig.outcome().error == ""


@pytest.mark.long
def test_both_fail(rig: FaultRig) -> None:
    rig.next("a", 0.15, RESET)
    rig.next("b", 0.5, b"garbage\r\n\r\n")
    assert rig.ask("/all").code == "backend_protocol"
    assert rig.attempts() == [("v1", "backend_reset"), ("v1", "backend_protocol")]


@pytest.mark.long
def test_both_hang(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    rig.next("b", HOLD)
    assert rig.ask("/all").code == "backend_first_byte_timeout"
    ended(rig, "a")
    ended(rig, "b")
    assert rig.attempts() == [("v1", "hedge_lost"), ("v1", "backend_first_byte_timeout")]


def test_a_client_that_leaves_ends_both(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    rig.next("b", HOLD)
    with rig.client() as client:
        client.send(request("/all"))
        rig.until(lambda: rig.backends["b"].requests)
    ended(rig, "a")
    ended(rig, "b")
    assert rig.outcome().status == 499


def test_a_client_that_leaves_before_the_copy_is_due(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    with rig.client() as client:
        client.send(request("/late"))
        rig.until(lambda: rig.backends["a"].requests)
    time.sleep(1.2)
    assert rig.backends["b"].requests == []


@pytest.mark.long
def test_copies_are_a_share_of_the_requests(rig: FaultRig) -> None:
    """Of ten requests that all take long, two may have a copy."""
    rig.always("a", HOLD)
    rig.always("b", HOLD)
    for _ in range(10):
        assert rig.ask("/few").status == 504
    asked = sum(len(rig.backends[name].requests) for name in "ab")
    assert asked == 12
    rig.recorded(10)


def test_there_is_nowhere_to_send_a_copy_from_an_only_address(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    assert rig.ask("/single").status == 504
    assert len(rig.backends["a"].requests) == 1


def test_a_body_that_is_still_coming_has_no_copy(rig: FaultRig) -> None:
    with rig.client() as client:
        client.send(b"POST /all HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nab")
        time.sleep(0.2)
        assert rig.backends["b"].requests == []
        client.send(b"cd")
        assert client.answer().body == b"a|POST|/all|4"


def test_a_copy_takes_a_place_like_any_request(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    rig.next("b", HOLD)
    with rig.client() as client:
        client.send(request("/all"))
        rig.until(lambda: rig.backends["b"].requests)
        assert rig.gateway.registry.limiters["pair"].in_flight == 2


UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


@pytest.mark.long
@pytest.mark.parametrize("late", [SWITCH, ok(b"no upgrade")], ids=["switch", "answer"])
def test_a_handshake_has_no_copy(rig: FaultRig, late: bytes) -> None:
    """What would come of a copy after the switch would end up in the tunnel."""
    rig.next("a", 0.2, SWITCH)
    rig.next("b", 0.3, late)
    with rig.client() as client:
        client.send(request("/all", method=b"GET", body=b"", lines=UPGRADE))
        assert client.answer().status == 101
        assert client.quiet(0.4)
        client.send(b"still a tunnel")
        rig.until(lambda: rig.backends["a"].connections[0].raw.endswith(b"still a tunnel"))
    assert rig.backends["b"].requests == []
    assert rig.attempts() == []
