"""Servers that respond with 500 to a client's fault: told apart by a rule, and charged to no backend."""

from __future__ import annotations

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import RESET, ok

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@"}
  b: {url: "http://127.0.0.1:@B@"}
  pair: {urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"]}
routes:
  told:
    match: {path: /told}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    errors: {client: [{status: 500, body: [bad shape, bad name]}, {status: 501}]}
    fallback: [v2]
    fallback_on: {status: 5xx}
  hedged:
    match: {path: /hedged}
    variants: {v1: {backend: pair}}
    policy: {type: single, variant: v1}
    errors: {client: [{status: 500, body: bad shape}]}
    hedge: {after: 1ms, max_share: 100%}
    retry: {replayable: true, attempts: 1}
  shadowed:
    match: {path: /shadowed}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
    errors: {client: [{status: 500, body: bad shape}]}
"""

OK = b"b|POST|/told|2"


def bad(body: bytes, status: bytes = b"500 x", *, chunked: bool = False) -> bytes:
    if not chunked:
        return ok(body, status=status)
    return b"HTTP/1.1 %b\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        status, len(body), body
    )  # fmt: skip


def failures(rig: FaultRig, backend: str = "a") -> list[int]:
    health = rig.gateway.registry.healths[backend]
    return [sum(record.runs) for record in health._group.addresses.values()]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"x bad shape x", b"500 x"), (b"bad name", b"500 x"), (b"whatever", b"501 x"), (b"", b"501 x")],
)
def test_a_client_fault_is_forwarded_and_not_charged(
    rig: FaultRig, body: bytes, status: bytes, chunked: bool
) -> None:
    rig.next("a", bad(body, status, chunked=chunked and bool(body)))
    answer = rig.ask("/told")
    assert (answer.status, answer.body) == (int(status[:3]), body)
    assert answer.all("x-variant") == [b"v1"]
    found = rig.outcome()
    assert (found.status, found.error, found.failed, found.fallback) == (int(status[:3]), "", False, False)
    assert rig.attempts() == []
    assert failures(rig) == [0]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("body", [b"out of memory", b"y" * 20_000, b"y" * 16_384 + b"bad shape"])
def test_another_fault_falls_back(rig: FaultRig, body: bytes, chunked: bool) -> None:
    rig.next("a", bad(body, chunked=chunked))
    assert rig.ask("/told").body == OK
    assert rig.outcome().error == "backend_status"
    assert rig.attempts() == [("v1", 500)]
    assert failures(rig) == [1]
    rig.until(lambda: not rig.worker.active)


def test_a_body_in_pieces_and_the_next_request_on_the_connection(rig: FaultRig) -> None:
    whole = bad(b"x" * 9000 + b"bad shape" + b"y" * 40_000)
    rig.next("a", whole[:50], 0.05, whole[50:9100], 0.05, whole[9100:])
    with rig.client() as client:
        client.send(request("/told") * 2)
        answer = client.answer()
        assert (answer.status, len(answer.body)) == (500, 49_009)
        assert client.answer().body == b"a|POST|/told|2"
    assert len(rig.backends["a"].connections) == 1


def test_a_response_that_breaks_off_while_it_is_inspected(rig: FaultRig) -> None:
    rig.next("a", bad(b"bad shape" * 9)[:-20], RESET)
    assert rig.ask("/told").code == "backend_truncated"
    assert rig.outcome().error == "backend_truncated"


def test_a_head_without_a_body(rig: FaultRig) -> None:
    rig.next("a", b"HTTP/1.1 500 x\r\ncontent-length: 9\r\n\r\n")
    assert rig.ask("/told", method=b"HEAD").status == 200
    assert rig.outcome().error == "backend_status"


def test_a_hedge_with_a_client_fault_is_not_charged(rig: FaultRig) -> None:
    for name in ("a", "b"):
        rig.always(name, 0.2, bad(b"bad shape"))
    assert rig.ask("/hedged").status == 500
    rig.until(lambda: not rig.worker.active)
    assert failures(rig, "pair") == [0, 0]
    rig.well("a")
    rig.well("b")


def test_a_shadow_with_the_same_fault_agrees(rig: FaultRig) -> None:
    fault = ok(b'{"error": "bad shape"}', b"content-type: application/json", status=b"500 x")
    rig.next("a", fault)
    rig.next("b", fault)
    assert rig.ask("/shadowed").status == 500
    rig.until(lambda: rig.shadowed)
    (row,) = rig.shadowed
    assert (row.status, row.error, row.agrees) == (500, "", True)
