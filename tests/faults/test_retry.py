"""Repetitions: only where safe, with a jittered pause, and never more than a share of what is under way."""

from __future__ import annotations

import time

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import RESET, Step, ok

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  b: {url: "http://127.0.0.1:@B@", ejection: null}
  half: {urls: ["http://127.0.0.1:@DEAD@", "http://127.0.0.1:@B@"], ejection: null}
  pair: {urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"], ejection: null}
routes:
  once:
    match: {path: /once}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  again:
    match: {path: /again}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {attempts: 3, replayable: true, backoff: {base: 100ms, max: 150ms}}
  later:
    match: {path: /later}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {attempts: 3, replayable: true, backoff: {base: 1s, max: 1s}}
  half:
    match: {path: /half}
    variants: {v1: {backend: half}}
    policy: {type: single, variant: v1}
    retry: {backoff: {base: 1ms}}
  pair:
    match: {path: /pair}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    retry: {replayable: true, backoff: {base: 1ms}}
  few:
    match: {path: /few}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {attempts: 2, replayable: true, budget: 0%, min: 1, backoff: {base: 400ms, max: 400ms}}
  third:
    match: {path: /third}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {attempts: 3, replayable: true, budget: 0%, min: 1, backoff: {base: 1ms}}
  full:
    match: {path: /full}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    fallback_on: {status: [429, 503]}
  retried:
    match: {path: /retried}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {replayable: true, on: {status: [408]}, backoff: {base: 1ms}}
"""

BUSY = ok(b"busy", status=b"503 Busy")


def test_what_was_sent_is_not_repeated_unless_the_route_says_so(rig: FaultRig) -> None:
    rig.next("a", RESET)
    assert rig.ask("/once").code == "backend_reset"
    assert len(rig.backends["a"].requests) == 1


def test_a_replayable_request_is_repeated_and_the_record_is_mended(rig: FaultRig) -> None:
    rig.next("a", RESET)
    rig.next("a", BUSY)
    assert rig.ask("/again", body=b'{"x": 1}').body == b"a|POST|/again|8"
    assert [r.body for r in rig.backends["a"].requests] == [b'{"x": 1}'] * 3
    found = rig.outcome()
    assert (found.status, found.error, found.served, found.fallback) == (200, "", "v1", False)
    assert rig.attempts() == [("v1", "backend_reset"), ("v1", 503)]


def test_the_last_failure_is_told(rig: FaultRig) -> None:
    for _ in range(3):
        rig.next("a", BUSY)
    answer = rig.ask("/again")
    assert (answer.status, answer.body) == (503, b"busy")
    assert rig.outcome().error == "backend_status"
    assert len(rig.backends["a"].requests) == 3


def test_a_client_status_that_the_route_names_is_a_failure_of_the_variant(rig: FaultRig) -> None:
    full = ok(b"full", status=b"429 Too Many Requests")
    rig.next("a", full)
    assert rig.ask("/full").body == b"b|POST|/full|2"
    found = rig.outcome()
    assert (found.status, found.error, found.served, found.failed) == (200, "backend_status", "v2", True)
    assert rig.attempts() == [("v1", 429)]


def test_a_client_status_is_passed_on_where_nothing_else_can_be_tried(rig: FaultRig) -> None:
    for name in ("a", "b"):
        rig.next(name, ok(b"full", status=b"429 Too Many Requests"))
    answer = rig.ask("/full")
    assert (answer.status, answer.body) == (429, b"full")
    assert rig.outcome().failed


def test_a_client_status_is_retried_if_the_route_names_it(rig: FaultRig) -> None:
    rig.next("a", ok(b"late", status=b"408 Request Timeout"))
    assert rig.ask("/retried").body == b"a|POST|/retried|2"
    found = rig.outcome()
    assert (found.error, found.failed, rig.attempts()) == ("", False, [("v1", 408)])


def test_a_client_status_that_no_option_names_is_no_failure(rig: FaultRig) -> None:
    rig.next("a", ok(b"what", status=b"404 Not Found"))
    assert rig.ask("/full").status == 404
    found = rig.outcome()
    assert (found.error, found.failed, found.served) == ("", False, "v1")


@pytest.mark.parametrize(("drawn", "least"), [(0.0, 0.0), (0.999, 0.24)])
def test_the_pause_is_a_random_part_of_a_growing_ceiling(
    rig: FaultRig, monkeypatch: pytest.MonkeyPatch, drawn: float, least: float
) -> None:
    """100 ms, then 200 ms but for the maximum of 150 ms."""
    monkeypatch.setattr(rig.worker, "random", lambda: drawn)
    rig.next("a", RESET)
    rig.next("a", RESET)
    begun = time.monotonic()
    assert rig.ask("/again").status == 200
    assert time.monotonic() - begun >= least


def test_the_pause_is_no_time_of_the_gateways(rig: FaultRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.worker, "random", lambda: 0.999)
    rig.next("a", RESET)
    rig.ask("/again")
    found = rig.outcome()
    assert found.total_ms > 90
    assert found.gateway_ms < found.total_ms - 90


def test_what_was_never_sent_goes_to_the_other_address(rig: FaultRig) -> None:
    for _ in range(20):
        answer = rig.ask("/half")
        assert (answer.status, answer.body) == (200, b"b|POST|/half|2")
    assert {o.error for o in rig.recorded(20)} == {""}
    tried = [o for o in rig.outcomes if o.attempts]
    assert tried  # half of them met the dead address first


def test_a_repetition_goes_to_an_address_that_was_not_tried(rig: FaultRig) -> None:
    for _ in range(10):
        rig.next("a", RESET)
        rig.next("b", ok(b"good"))
        answer = rig.ask("/pair")
        assert answer.status == 200
        rig.well("a")
        rig.well("b")
    assert all(o.error == "" for o in rig.recorded(10))


@pytest.mark.long
def test_the_budget_bounds_the_repetitions_under_way(rig: FaultRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time: while the first waits for its turn, the others are told at once."""
    monkeypatch.setattr(rig.worker, "random", lambda: 0.999)
    for _ in range(3):
        rig.next("a", BUSY)
    clients = [rig.client() for _ in range(3)]
    try:
        clients[0].send(request("/few"))
        rig.until(lambda: rig.gateway.registry.limiters["a"].retrying == 1)
        for client in clients[1:]:
            client.send(request("/few"))
            assert client.answer().status == 503
        assert clients[0].answer().status == 200
        rig.until(lambda: rig.gateway.registry.limiters["a"].retrying == 0)
        # And the place is free again.
        rig.next("a", BUSY)
        assert rig.ask("/few").status == 200
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.parametrize("failure", [RESET, BUSY], ids=["reset", "busy"])
def test_a_retry_that_replaces_another_keeps_its_place_in_the_budget(rig: FaultRig, failure: Step) -> None:
    """Of one retry at a time: the failed one still counts when the next is asked for."""
    rig.next("a", failure)
    rig.next("a", failure)
    assert rig.ask("/third").status == 200
    assert len(rig.backends["a"].requests) == 3


def test_the_budget_is_a_share_of_what_is_under_way() -> None:
    from gateway.transport.limiter import ConcurrencyLimiter, Limit

    limiter = ConcurrencyLimiter(Limit(in_flight=1024, waiting=1024, wait=1.0))
    limiter.in_flight, limiter.retrying = 100, 19
    assert limiter.may_retry(0.2, 3)
    limiter.retrying = 20
    assert not limiter.may_retry(0.2, 3)
    limiter.in_flight, limiter.retrying = 0, 2
    assert limiter.may_retry(0.2, 3)
    limiter.retrying = 3
    assert not limiter.may_retry(0.2, 3)


def test_a_client_that_leaves_during_the_pause_is_not_repeated_for(
    rig: FaultRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.worker, "random", lambda: 0.999)
    rig.next("a", RESET)
    with rig.client() as client:
        client.send(request("/later"))
        rig.until(lambda: rig.gateway.registry.limiters["a"].retrying == 1)
    rig.until(lambda: rig.outcomes)
    time.sleep(1.2)
    assert len(rig.backends["a"].requests) == 1
    assert rig.outcome().status == 499


def test_a_body_too_large_to_keep_is_not_repeated(rig: FaultRig) -> None:
    rig.next("a", RESET)
    answer = rig.ask("/again", body=bytes(5 << 20))
    assert (answer.status, answer.code) == (502, "backend_reset")
    assert len(rig.backends["a"].requests) <= 1
