"""The bound of a backend: so many in flight, a short queue behind with a deadline, 503 and Retry-After beyond."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import HOLD, RESET, ok

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", limit: {in_flight: 2, waiting: 2, wait: 400ms}}
  b: {url: "http://127.0.0.1:@B@"}
routes:
  alone:
    match: {path: /alone}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    timeouts: {first_byte: 5s}
  fall:
    match: {path: /fall}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {first_byte: 5s}
"""


class Clients:
    """Several at once."""

    def __init__(self, rig: FaultRig, path: str, count: int) -> None:
        self.rig = rig
        self.clients = [rig.client() for _ in range(count)]
        for number, client in enumerate(self.clients):
            client.send(request(path))
            self._until_seen(number + 1)

    def _until_seen(self, count: int) -> None:
        self.rig.until(lambda: len(self.rig.worker.active) + len(self.rig.outcomes) >= count)

    def __enter__(self) -> list[Any]:
        return self.clients

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.socket.close()


def test_beyond_the_queue_it_is_503_at_once_with_retry_after(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    with Clients(rig, "/alone", 5) as clients:
        answer = clients[4].answer()
        assert (answer.status, answer.code) == (503, "backend_overloaded")
        assert answer.all("retry-after") == [b"1"]
        assert len(rig.backends["a"].requests) == 2
        found = rig.outcomes[0]
        assert (found.status, found.error, found.served) == (503, "backend_overloaded", "")


@pytest.mark.long
def test_whoever_waits_too_long_is_told_the_same(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    with Clients(rig, "/alone", 3) as clients:
        begun = time.monotonic()
        answer = clients[2].answer()
        assert time.monotonic() - begun > 0.3
        assert (answer.status, answer.code) == (503, "backend_overloaded")
        assert answer.all("retry-after") == [b"1"]
        assert not rig.gateway.registry.limiters["a"].waiting


def test_a_place_that_becomes_free_goes_to_the_first_in_the_queue(rig: FaultRig) -> None:
    rig.next("a", 0.15, ok(b"one"))
    rig.next("a", HOLD)
    with Clients(rig, "/alone", 4) as clients:
        assert clients[0].answer().body == b"one"
        assert clients[2].answer().body == b"a|POST|/alone|2"
        assert clients[3].answer().body == b"a|POST|/alone|2"
    assert rig.gateway.registry.limiters["a"].in_flight <= 1


def test_a_place_is_freed_by_a_failure_and_by_a_client_that_leaves(rig: FaultRig) -> None:
    rig.next("a", 0.1, RESET)
    rig.next("a", HOLD)
    with Clients(rig, "/alone", 4) as clients:
        assert clients[0].answer().status == 502
        assert clients[2].answer().status == 200
        clients[1].socket.close()
        assert clients[3].answer().status == 200
    rig.until(lambda: rig.gateway.registry.limiters["a"].in_flight == 0)


def test_a_client_that_leaves_the_queue_takes_its_place_along(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    with Clients(rig, "/alone", 4) as clients:
        clients[2].socket.close()
        rig.until(lambda: len(rig.gateway.registry.limiters["a"].waiting) == 1)
        assert rig.outcome().status == 499


@pytest.mark.long
def test_what_finds_no_place_goes_to_the_fallback(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    with Clients(rig, "/fall", 5) as clients:
        assert clients[4].answer().body == b"b|POST|/fall|2"
        assert clients[3].answer().body == b"b|POST|/fall|2"  # once it has waited in vain
    rig.until(lambda: len(rig.outcomes) >= 2)
    assert {(o.error, o.served) for o in rig.outcomes[:2]} == {("backend_overloaded", "v2")}


def test_the_queue_is_not_joined_in_vain(rig: FaultRig) -> None:
    """Where places become free every 300 ms and one may wait 400 ms, the third in the queue need not wait."""
    limiter = rig.gateway.registry.limiters["a"]
    try:
        limiter.slot_interval = 0.3
        assert not limiter.would_time_out()
        limiter.waiting.extend([object(), object()])  # type: ignore[list-item]
        assert limiter.would_time_out()
        assert limiter.drain_time() == 0.6
    finally:
        limiter.waiting.clear()
        limiter.slot_interval = 0.0


def test_under_a_rush_everyone_is_answered_and_the_backend_never_has_more_than_it_may(rig: FaultRig) -> None:
    most = 0
    seen = rig.backends["a"].marker

    def marker(asked: Any) -> bytes:
        nonlocal most
        most = max(most, rig.gateway.registry.limiters["a"].in_flight)
        return seen(asked)

    rig.backends["a"].marker = marker  # type: ignore[method-assign,assignment]
    clients = [rig.client() for _ in range(40)]
    for _ in range(5):
        for client in clients:
            client.send(request("/alone"))
        answers = [client.answer() for client in clients]
        assert {a.status for a in answers} <= {200, 503}
        assert sum(a.status == 200 for a in answers) >= 4
        assert all(a.all("retry-after") for a in answers if a.status == 503)
    assert 1 <= most <= 2
    for client in clients:
        client.socket.close()
    del rig.backends["a"].marker
