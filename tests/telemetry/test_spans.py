"""Spans say what the record says: of requests, attempts, shadows, refusals and tunnels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import HOLD, RESET, ok
from tests.telemetry.collector import Collector
from tests.telemetry.traced import MILLISECOND, NOT_SAMPLED, PARENT, SPAN, TRACE, by_kind, sent, told


def test_a_request_and_its_attempt_are_told_in_the_conventions_words(rig: FaultRig, to: Collector) -> None:
    answer = rig.ask(
        "/plain/infer?secret=1",
        lines=sent("x-user: u1|user-agent: Mozilla/5.0 (a b)|x-request-id: r-1"),
        body=b"12345",
    )
    outcome = rig.outcome()
    server, (client,) = by_kind(to.wait(2))
    assert (server.name, server.parent, server.failed, server.links) == ("POST /plain", "", False, [])
    assert server.flags == 0x100  # the parent, if any, is not known to be elsewhere
    assert server.attributes == {
        "http.request.method": "POST",
        "url.path": "/plain/infer",
        "url.scheme": "http",
        "http.route": "/plain",
        "http.response.status_code": 200,
        "http.request.body.size": 5,
        "http.response.body.size": len(answer.body),
        "server.address": "test",
        "server.port": 80,
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "Mozilla/5.0 (a b)",
        "turnout.route": "plain",
        "turnout.policy": "split",
        "turnout.revision": rig.gateway.api.revision().revision,
        "turnout.epoch": outcome.epoch,
        "turnout.variant.assigned": outcome.assigned,
        "turnout.variant.served": outcome.served,
        "turnout.propensity": outcome.propensity,
        "turnout.forced": False,
        "turnout.sticky": True,
        "turnout.decision_id": outcome.decision.hex(),
        "turnout.request_id": "r-1",
        "turnout.gateway_ms": outcome.gateway_ms,
        "turnout.backend_ms": outcome.backend_ms,
    }
    assert outcome.propensity == {"v1": 0.75, "v2": 0.25}[outcome.assigned]
    assert client.name == f"POST {outcome.served}"
    assert client.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": rig.backends["a"].port,
        "url.full": f"http://127.0.0.1:{rig.backends['a'].port}/plain/infer",
        "network.protocol.version": "1.1",
        "turnout.variant": outcome.served,
        "turnout.backend": "a",
        "turnout.attempt": "first",
    }
    assert answer.all("x-decision-id")[0].decode() not in str(server.attributes)
    (found,) = rig.backends["a"].requests
    assert told(found) == (server.trace_id, client.span_id, 1)
    assert server.resource["service.name"] == "turnout"
    assert "secret" not in str(to.spans)


def test_times_are_the_records(rig: FaultRig, to: Collector) -> None:
    rig.next("a", 0.03, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na", 0.05, b"b")
    before = time.time()
    rig.ask("/plain")
    outcome = rig.outcome()
    server, (client,) = by_kind(to.wait(2))
    assert before - MILLISECOND < server.begun < server.ended < time.time() + MILLISECOND
    assert server.seconds == pytest.approx(outcome.total_ms / 1e3, abs=MILLISECOND)
    assert client.events["answer"] - client.events["sent"] == pytest.approx(
        outcome.backend_ms / 1e3, abs=MILLISECOND
    )
    assert outcome.backend_ms > 29
    assert client.ended - client.events["answer"] > 0.045  # its last byte, not its first
    assert client.ended == pytest.approx(server.ended, abs=MILLISECOND)
    assert client.events["sent"] - server.begun < outcome.gateway_ms / 1e3 + MILLISECOND


def test_a_stream_ends_when_it_ends(rig: FaultRig, to: Collector) -> None:
    rig.next(
        "a", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", HOLD, b"1\r\nb\r\n0\r\n\r\n"
    )
    with rig.client() as client:
        client.send(request("/plain"))
        rig.until(lambda: rig.backends["a"].requests)
        time.sleep(0.2)
        assert to.spans == []
        rig.well("a")
        assert client.answer().body == b"ab"
    server, (attempt,) = by_kind(to.wait(2))
    assert attempt.seconds > 0.19
    assert server.seconds > 0.19
    assert not server.failed


def test_a_trusted_proxy_says_who_the_client_is(rig: FaultRig, to: Collector) -> None:
    rig.ask("/plain", lines=sent("x-forwarded-for: 192.0.2.7, 10.1.1.1|x-forwarded-for: 10.1.1.2"))
    server, _ = by_kind(to.wait(2))
    assert server.attributes["client.address"] == "192.0.2.7"
    assert server.attributes["network.peer.address"] == "127.0.0.1"


# Shadows, refusals, tunnels ---------------------------------------------------------------------------
def test_a_shadow_has_a_trace_of_its_own_that_links_to_the_request(rig: FaultRig, to: Collector) -> None:
    rig.next("b", 0.05, ok(b"{}"))
    rig.ask("/shadowed/x", lines=sent(f"traceparent: {PARENT}|tracestate: foo=1"))
    outcome = rig.outcome()
    spans = to.wait(3)
    (shadow,) = [s for s in spans if s.attributes.get("turnout.attempt") == "shadow"]
    server, (client,) = by_kind([s for s in spans if s is not shadow])
    assert (shadow.kind, shadow.parent, shadow.state) == ("client", "", "")
    assert shadow.trace_id != server.trace_id
    assert shadow.links == [(server.trace_id, server.span_id)]
    assert shadow.attributes["turnout.decision_id"] == outcome.decision.hex()
    assert (shadow.attributes["turnout.variant"], shadow.attributes["turnout.route"]) == ("v2", "shadowed")
    assert shadow.attributes["http.response.status_code"] == 200
    assert shadow.begun >= client.ended - MILLISECOND
    took = shadow.events["answer"] - shadow.events["sent"]
    rig.until(lambda: rig.shadowed)
    assert took == pytest.approx(rig.shadowed[0].latency_ms / 1e3, abs=MILLISECOND)
    (copy,) = rig.backends["b"].requests
    assert told(copy) == (shadow.trace_id, shadow.span_id, 1)
    assert copy.all("tracestate") == []
    (first,) = rig.backends["a"].requests
    assert told(first) == (TRACE, client.span_id, 1)
    assert first.all("tracestate") == [b"foo=1"]


def test_a_shadow_that_breaks_says_so(rig: FaultRig, to: Collector) -> None:
    rig.next("b", RESET)
    rig.ask("/shadowed")
    (shadow,) = [s for s in to.wait(3) if s.attributes.get("turnout.attempt") == "shadow"]
    assert (shadow.failed, shadow.attributes["error.type"]) == (True, "backend_reset")


def test_shadows_of_requests_that_are_not_traced_are_not_either(rig: FaultRig, to: Collector) -> None:
    rig.ask("/shadowed", lines=sent(f"traceparent: {NOT_SAMPLED}"))
    rig.until(lambda: rig.shadowed)
    time.sleep(0.15)
    assert to.spans == []
    (copy,) = rig.backends["b"].requests
    assert copy.all("traceparent") == [NOT_SAMPLED.encode()]


@pytest.mark.parametrize("sampled", [True, False])
def test_a_refused_request_is_one_span(rig: FaultRig, to: Collector, sampled: bool) -> None:
    assert rig.ask("/nowhere", lines=sent(f"traceparent: {PARENT if sampled else NOT_SAMPLED}")).status == 404
    if not sampled:
        time.sleep(0.15)
        assert to.spans == []
        return
    (span,) = to.wait(1)
    assert (span.name, span.kind, span.failed) == ("POST", "server", False)
    assert (span.parent, span.links) == ("", [(TRACE, SPAN)]), "it only is linked to"
    assert span.attributes["turnout.error"] == "unknown_route"
    assert span.attributes["http.response.status_code"] == 404
    assert "turnout.route" not in span.attributes


def test_a_stranger_has_no_say_in_what_is_traced(
    rig: FaultRig, to: Collector, settled: Callable[..., None]
) -> None:
    """S35: who was refused could have every request of theirs exported."""
    settled(sample=0)
    for _ in range(5):
        assert rig.ask("/nowhere", lines=sent(f"traceparent: {PARENT}")).status == 404
    rig.ask("/plain", lines=sent(f"traceparent: {PARENT}"))
    assert {span.trace_id for span in to.wait(2)} == {TRACE}
    time.sleep(0.15)
    assert len(to.spans) == 2


def test_a_body_that_is_refused_is_one_span(rig: FaultRig, to: Collector) -> None:
    """Its head had been taken for a request that would be served."""
    with rig.client() as client:
        client.send(b"POST /plain HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
        assert client.answer().status == 400
    spans = to.wait(1) if not rig.backends["a"].requests else to.wait(2)
    server = next(span for span in spans if span.kind == "server")
    assert server.attributes["http.response.status_code"] == 400


def test_the_control_api_is_not_traced(rig: FaultRig, to: Collector) -> None:
    assert rig.ask("/-/healthz", method=b"GET", body=b"", lines=sent(f"traceparent: {PARENT}")).status == 200
    time.sleep(0.15)
    assert to.spans == []


def test_a_tunnel_lasts_as_long_as_it_does(rig: FaultRig, to: Collector) -> None:
    rig.next("a", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
    with rig.client() as client:
        client.send(
            b"GET /plain HTTP/1.1\r\nhost: test:81\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        rig.until(lambda: rig.backends["a"].requests)
        time.sleep(0.15)
        assert to.spans == []
    server, (attempt,) = by_kind(to.wait(2))
    assert (server.attributes["http.response.status_code"], server.attributes["server.port"]) == (101, 81)
    assert attempt.seconds > 0.14


def test_several_requests_of_one_segment_are_told_apart(rig: FaultRig, to: Collector) -> None:
    ids = [f"{n:032x}" for n in range(1, 6)]
    with rig.client() as client:
        client.send(b"".join(request("/plain", lines=sent(f"traceparent: 00-{i}-{SPAN}-01")) for i in ids))
        for _ in ids:
            client.answer()
    spans = to.wait(10)
    by_span = {span.span_id: span for span in spans}
    assert sorted(s.trace_id for s in spans if s.kind == "server") == ids
    assert [told(r)[0] for r in rig.backends["a"].requests] == ids
    for found in rig.backends["a"].requests:
        trace, span, _ = told(found)
        assert by_span[span].trace_id == trace
    assert len({span.span_id for span in spans}) == 10


def test_the_metric_counts(rig: FaultRig, to: Collector) -> None:
    def count(event: str) -> float:
        found: Any = rig.gateway.in_force.metrics.registry.get_sample_value(
            "turnout_trace_spans_total", {"event": event}
        )
        return float(found or 0)

    rig.call(rig.gateway.api.gauges.update)
    before = {event: count(event) for event in ("offered", "exported")}
    rig.ask("/plain")
    to.wait(2)
    rig.until(lambda: not rig.gateway.in_force.traces.exporter.waiting)  # type: ignore[union-attr]
    rig.call(rig.gateway.api.gauges.update)
    assert {event: count(event) - before[event] for event in before} == {"offered": 2, "exported": 2}
