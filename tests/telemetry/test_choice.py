"""Which requests are traced, and what backends are told of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.faults.rig import FaultRig, request
from tests.telemetry.collector import Collector
from tests.telemetry.traced import CONFIG, NOT_SAMPLED, PARENT, SPAN, TRACE, by_kind, sent, told

LARGE = ",".join(f"k{n}={'v' * 100}" for n in range(9))
"""A tracestate of which 512 characters hold four members: 4 · 103 + 3."""


@pytest.mark.parametrize("share", ["100%", "0%"])
@pytest.mark.parametrize("parent", ["follow", "link"])
@pytest.mark.parametrize("flag", ["none", "01", "00", "bad"])
def test_who_is_traced(
    rig: FaultRig, to: Collector, settled: Callable[..., None], share: str, parent: str, flag: str
) -> None:
    if (share, parent) != ("100%", "follow"):
        settled(sample=share, parent=parent)
    lines = {
        "none": "",
        "01": f"traceparent: {PARENT}|tracestate: foo=1, bar=2",
        "00": f"traceparent: {NOT_SAMPLED}|tracestate: foo=1, bar=2",
        "bad": f"traceparent: 00-{TRACE}-{'0' * 16}-01|tracestate: foo=1",
    }[flag]
    rig.ask("/plain", lines=sent(lines))
    (found,) = rig.backends["a"].requests
    says = parent == "follow" and flag in ("01", "00")
    traced = flag == "01" if says else share == "100%"
    if traced:
        server, (client,) = by_kind(to.wait(2))
        assert told(found) == (server.trace_id, client.span_id, 1)
        if says:
            assert (server.trace_id, server.parent, server.flags) == (TRACE, SPAN, 0x300)
            assert found.all("tracestate") == [b"foo=1,bar=2"]
            assert server.state == client.state == "foo=1,bar=2"
        else:
            assert server.trace_id != TRACE
            assert server.parent == ""
            assert found.all("tracestate") == []
        assert server.links == ([(TRACE, SPAN)] if parent == "link" and flag in ("01", "00") else [])
    else:
        rig.until(lambda: rig.outcomes)
        time.sleep(0.15)
        assert to.spans == []
        if says:
            assert found.all("traceparent") == [NOT_SAMPLED.encode()]
            assert found.all("tracestate") == [b"foo=1, bar=2"]
        else:
            assert found.all("traceparent") == found.all("tracestate") == []


@pytest.mark.parametrize(
    "lines",
    [
        f"traceparent: {PARENT}|traceparent: {PARENT}",
        f"traceparent: {PARENT}|Traceparent: 00-{'1' * 32}-{'2' * 16}-01",
        f"traceparent: ff-{TRACE}-{SPAN}-01",
        f"traceparent: 00-{TRACE.upper()}-{SPAN}-01",
        f"traceparent: 00-{'0' * 32}-{SPAN}-01",
        f"traceparent: {PARENT}-more",
        f"traceparent: {PARENT}, {PARENT}",
        "traceparent:",
        f"traceparent: {'0' * 4000}",
        "tracestate: foo=1",
        f"connection: traceparent|traceparent: {PARENT}",
        f"trace-parent: {PARENT}",
    ],
)
def test_what_is_no_traceparent_begins_a_trace_anew(rig: FaultRig, to: Collector, lines: str) -> None:
    rig.ask("/plain", lines=sent(lines + "|tracestate: foo=1"))
    server, (client,) = by_kind(to.wait(2))
    (found,) = rig.backends["a"].requests
    assert told(found) == (server.trace_id, client.span_id, 1)
    assert TRACE not in server.trace_id
    assert (server.parent, server.state) == ("", "")
    assert found.all("tracestate") == []


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("tracestate: foo=1|tracestate: bar=2", b"foo=1,bar=2"),
        ("tracestate: foo=1,,|tracestate:|tracestate: \tbar=2 ", b"foo=1,bar=2"),
        ("tracestate: FOO=1", None),
        ("tracestate: " + ",".join(f"k{n}=1" for n in range(33)), None),
        (f"tracestate: {LARGE}", LARGE[:415].encode()),
        ("tracestate: a=" + "v" * 5000, None),
    ],
)  # fmt: skip
def test_a_tracestate_is_kept_or_left_out(
    rig: FaultRig, to: Collector, lines: str, kept: bytes | None
) -> None:
    rig.ask("/plain", lines=sent(f"TraceParent: cc-{TRACE}-{SPAN}-03-more|{lines}"))
    server, (client,) = by_kind(to.wait(2))
    assert (server.trace_id, server.parent) == (TRACE, SPAN)
    (found,) = rig.backends["a"].requests
    assert told(found) == (TRACE, client.span_id, 3)
    assert found.all("tracestate") == ([kept] if kept is not None else [])
    assert server.state == (kept or b"").decode()


def test_without_propagation_both_fields_pass_as_they_came(
    rig: FaultRig, to: Collector, settled: Callable[..., None]
) -> None:
    settled(propagate=False)
    lines = f"TraceParent: {PARENT}|tracestate: foo=1 ,bar=2|x-y: z|tracestate: baz=3"
    rig.ask("/plain", lines=sent(lines))
    server, _ = by_kind(to.wait(2))
    assert (server.trace_id, server.parent) == (TRACE, SPAN)
    (found,) = rig.backends["a"].requests
    assert sent(lines) in found.head + b"\r\n"


def test_without_traces_the_gateway_never_looks_at_them(rig: FaultRig, to: Collector) -> None:
    text = CONFIG.replace("@COLLECTOR@", str(to.port))
    rig.edit(re.sub(r"\ntelemetry: .*", "", text))
    try:
        lines = (
            f"TraceParent: {PARENT}|tracestate: foo=1 ,bar=2|traceparent: nonsense|x-y: z|tracestate: b@d=\t3"
        )
        rig.ask("/plain", lines=sent(lines))
        (found,) = rig.backends["a"].requests
        assert sent(lines) in found.head + b"\r\n"
        assert rig.gateway.in_force.traces.exporter is None
    finally:
        rig.edit(text)
    rig.ask("/plain")
    to.wait(2)


def test_about_the_share_is_traced(rig: FaultRig, to: Collector, settled: Callable[..., None]) -> None:
    settled(sample="20%")
    with rig.client() as client:
        for _ in range(400):
            client.send(request("/plain"))
            client.answer()
    exporter = rig.gateway.in_force.traces.exporter
    assert exporter is not None
    rig.until(lambda: len(rig.outcomes) == 400 and not exporter.waiting)
    traced = sum(span.kind == "server" for span in to.spans)
    assert 40 < traced < 125  # 5 standard deviations
    named = [r for r in rig.backends["a"].requests if r.all("traceparent")]
    assert len(named) == traced
