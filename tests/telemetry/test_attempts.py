"""Each attempt has a span of its own, and its backend is told of that one."""

from __future__ import annotations

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import CLOSE, HOLD, RESET, chunked, ok
from tests.support.client import Cut
from tests.telemetry.collector import Collector
from tests.telemetry.traced import MILLISECOND, by_kind, told


def test_a_fallback_and_what_it_stood_in_for(rig: FaultRig, to: Collector) -> None:
    rig.ask("/rescued/infer")
    server, (first, second) = by_kind(to.wait(3))
    a = server.attributes
    assert (a["turnout.variant.assigned"], a["turnout.variant.served"]) == ("new", "old")
    assert (a["turnout.fallback"], a["turnout.error"]) == (True, "backend_connect")
    assert not server.failed
    assert (first.failed, first.attributes["error.type"]) == (True, "backend_connect")
    assert (first.attributes["turnout.variant"], first.attributes["turnout.attempt"]) == ("new", "first")
    assert "http.response.status_code" not in first.attributes
    assert first.events == {}
    assert (second.failed, second.attributes["turnout.attempt"]) == (False, "fallback")
    assert second.attributes["url.full"].endswith("/base/models/old/infer")
    assert second.attributes["http.request.resend_count"] == 1
    (found,) = rig.backends["b"].requests
    assert told(found) == (server.trace_id, second.span_id, 1)
    assert first.ended <= second.begun + MILLISECOND / 10


def test_repetitions_have_spans_of_their_own(rig: FaultRig, to: Collector) -> None:
    bad = ok(b"no", status=b"503 Service Unavailable")
    for name in "ab":
        rig.next(name, 0.02, bad)
        rig.next(name, bad)
    rig.ask("/retried")
    outcome = rig.outcome()
    server, found = by_kind(to.wait(4))
    assert [s.attributes["turnout.attempt"] for s in found] == ["first", "retry", "retry"]
    assert [s.attributes["http.response.status_code"] for s in found] == [503] * 3
    assert [s.attributes.get("http.request.resend_count", 0) for s in found] == [0, 1, 2]
    assert all(s.failed and s.attributes["error.type"] == "503" for s in found)
    assert (server.failed, server.attributes["error.type"]) == (True, "backend_status")
    assert server.attributes["http.response.status_code"] == outcome.status == 503
    everywhere = [r for n in "ab" for r in rig.backends[n].requests]
    assert sorted(told(r)[1] for r in everywhere) == sorted(s.span_id for s in found)
    assert found[0].events["answer"] - found[0].events["sent"] > 0.019
    spent = sum(s.events["answer"] - s.events["sent"] for s in found)
    assert spent <= server.seconds


@pytest.mark.parametrize("slow", ["the first", "the copy"])
def test_both_copies_of_a_hedged_request(rig: FaultRig, to: Collector, slow: str) -> None:
    route = rig.worker.snapshot.routes["hedged"]
    route.variants["v1"].backend.chance = lambda: 0.0  # the first to a
    if slow == "the first":
        rig.next("a", HOLD)
    else:
        rig.next("a", 0.15, ok(b"first"))
        rig.next("b", HOLD)
    rig.ask("/hedged")
    server, (first, copy) = by_kind(to.wait(3))
    assert (first.attributes["turnout.attempt"], copy.attributes["turnout.attempt"]) == ("first", "hedge")
    results = [s.attributes.get("turnout.result") for s in (first, copy)]
    assert results == (["hedged", None] if slow == "the first" else [None, "hedge_lost"])
    assert not any(s.failed for s in (server, first, copy))
    assert copy.begun - first.begun > 0.045
    for name, span in (("a", first), ("b", copy)):
        (found,) = rig.backends[name].requests
        assert told(found) == (server.trace_id, span.span_id, 1)
    winner = copy if slow == "the first" else first
    assert winner.attributes["http.response.status_code"] == 200
    took = winner.events["answer"] - winner.events["sent"]
    assert took == pytest.approx(rig.outcome().backend_ms / 1e3, abs=MILLISECOND)
    rig.well("a")


def test_a_connection_that_had_died_is_one_attempt(rig: FaultRig, to: Collector) -> None:
    rig.ask("/rescued")  # leaves a resting connection
    to.wait(3)
    to.bodies.clear()
    rig.next("b", CLOSE)
    rig.next("b", ok(b"again"))
    rig.outcomes.clear()
    assert rig.ask("/rescued").body == b"again"
    _, found = by_kind(to.wait(3))
    assert [s.attributes["turnout.attempt"] for s in found] == ["first", "fallback"]
    heads = rig.backends["b"].requests[-2:]
    assert {told(r)[1] for r in heads} == {found[1].span_id}


@pytest.mark.long
def test_silence_a_reset_and_no_place_are_errors_of_the_attempt(rig: FaultRig, to: Collector) -> None:
    for steps, code, status in (
        ((HOLD,), "backend_first_byte_timeout", 504),
        ((RESET,), "backend_reset", 502),
        ((b"nonsense\r\n\r\n", CLOSE), "backend_protocol", 502),
    ):
        rig.outcomes.clear()
        to.bodies.clear()
        rig.next("a", *steps)
        assert rig.ask("/plain").status == status
        server, (client,) = by_kind(to.wait(2))
        assert client.failed
        assert server.failed
        assert (client.attributes["error.type"], client.attributes["turnout.result"]) == (code, code)
        assert server.attributes["error.type"] == code
        assert server.attributes["http.response.status_code"] == status
        assert server.attributes["turnout.variant.served"] == ""
        assert "sent" in client.events
        assert "answer" not in client.events
    rig.well("a")


def test_a_request_that_found_no_place_has_an_attempt_without_address(rig: FaultRig, to: Collector) -> None:
    rig.next("a", HOLD)
    with rig.client() as first, rig.client() as second:
        first.send(request("/narrow"))
        rig.until(lambda: rig.backends["a"].requests)
        second.send(request("/narrow"))
        assert second.answer().status == 503
        server, (client,) = by_kind(to.wait(2))
        assert (client.attributes["error.type"], "server.address" in client.attributes) == (
            "backend_overloaded",
            False,
        )
        assert server.seconds > 0.09
        rig.well("a")


def test_an_answer_that_breaks_off_is_an_error_with_a_good_status(rig: FaultRig, to: Collector) -> None:
    rig.next("a", chunked(b"abc", end=b""), 0.05, RESET)
    with pytest.raises(Cut):
        rig.ask("/plain")
    server, (client,) = by_kind(to.wait(2))
    for span in (server, client):
        assert (span.failed, span.attributes["error.type"]) == (True, "backend_truncated")
    assert rig.outcome().error == "backend_truncated"
    assert server.attributes["http.response.status_code"] == 200
    assert client.events["answer"] < client.ended - 0.04


def test_a_client_that_leaves_is_nobodys_error(rig: FaultRig, to: Collector) -> None:
    rig.next("a", HOLD)
    with rig.client() as client:
        client.send(request("/plain"))
        rig.until(lambda: rig.backends["a"].requests)
    server, (attempt,) = by_kind(to.wait(2))
    assert (server.failed, attempt.failed) == (False, False)
    assert server.attributes["http.response.status_code"] == 499
    assert server.attributes["error.type"] == attempt.attributes["turnout.result"] == "client_left"


def test_what_the_end_of_the_process_cuts_short_is_no_fault_of_the_attempt(
    rig: FaultRig, to: Collector
) -> None:
    rig.next("a", HOLD)
    with rig.client() as client:
        client.send(request("/plain"))
        rig.until(lambda: rig.backends["a"].requests)
        (connection,) = rig.connections
        rig.call(connection.end)
        assert client.answer().code == "draining"
    server, (attempt,) = by_kind(to.wait(2))
    assert (attempt.failed, attempt.attributes["turnout.result"]) == (False, "draining")
    assert server.attributes["error.type"] == "draining"
    assert [error for _, error in rig.attempts()] == ["draining"]
    assert not rig.outcome().failed


def test_a_clients_fault_fails_no_span(rig: FaultRig, to: Collector) -> None:
    rig.next("a", ok(b"?", status=b"422 Unprocessable"))
    assert rig.ask("/plain").status == 422
    server, (client,) = by_kind(to.wait(2))
    assert (server.failed, "error.type" in server.attributes) == (False, False)
    assert (client.failed, client.attributes["error.type"]) == (True, "422")  # as the conventions want it
