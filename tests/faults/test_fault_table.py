"""Every way in which a backend fails, with and without a fallback: what the client sees, what the record says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import CLOSE, EARLY, HOLD, RESET, Step, chunked, ok
from tests.support.client import Cut

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  b: {url: "http://127.0.0.1:@B@", ejection: null}
  dead: {url: "http://127.0.0.1:@DEAD@", ejection: null}
routes:
  alone:
    match: {path: /alone}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    timeouts: &times {connect: 400ms, first_byte: 400ms, idle: 400ms, total: 1500ms}
  fall:
    match: {path: /fall}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    retry: {attempts: 1}
    timeouts: *times
  fixed:
    match: {path: /fixed}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, json: {label: unknown}}}]
    retry: {attempts: 1}
    timeouts: *times
  dead-alone:
    match: {path: /dead/alone}
    variants: {v1: {backend: dead}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    timeouts: *times
  dead-fall:
    match: {path: /dead/fall}
    variants: {v1: {backend: dead}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    retry: {attempts: 1}
    timeouts: *times
  dead-fixed:
    match: {path: /dead/fixed}
    variants: {v1: {backend: dead}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, json: {label: unknown}}}]
    retry: {attempts: 1}
    timeouts: *times
"""

TRICKLE: Sequence[Step] = [step for byte in b"HTTP/1.1 200 OK\r\nx: " for step in (bytes((byte,)), 0.1)]

BEFORE: dict[str, tuple[Sequence[Step], int, str]] = {
    "hangs": ((HOLD,), 504, "backend_first_byte_timeout"),
    "trickles-its-head": (TRICKLE, 504, "backend_first_byte_timeout"),
    "resets": ((RESET,), 502, "backend_reset"),
    "closes": ((CLOSE,), 502, "backend_reset"),
    "resets-mid-head": ((b"HTTP/1.1 200 OK\r\ncontent-le", 0.02, RESET), 502, "backend_reset"),
    "closes-mid-head": ((b"HTTP/1.1 200 OK\r\ncontent-le", 0.02, CLOSE), 502, "backend_reset"),
    "sends-garbage": ((b"\x00\x01\x02 what is this\r\n\r\n",), 502, "backend_protocol"),
    "speaks-tls": ((b"\x15\x03\x01\x00\x02\x02\x46",), 502, "backend_protocol"),
    "two-lengths": (
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",),
        502,
        "backend_protocol",
    ),
}
"""Before the first byte: (what it does, the client's status without a fallback, the error's code)."""

AFTER: dict[str, tuple[Sequence[Step], str]] = {
    "resets-mid-body": (
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", 0.05, RESET),
        "backend_truncated",
    ),
    "sends-less": ((b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", 0.05, CLOSE), "backend_truncated"),
    "no-last-chunk": ((chunked(b"abc", end=b""), 0.05, CLOSE), "backend_truncated"),
    "bad-chunk": ((chunked(b"abc", end=b"zz\r\n"),), "backend_truncated"),
    "stalls-mid-body": ((b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", HOLD), "backend_idle_timeout"),
    "trickles-for-ever": (
        (chunked(b"abc", end=b""), *[step for _ in range(40) for step in (b"1\r\nx\r\n", 0.1)]),
        "backend_total_timeout",
    ),
}
"""After the first byte: (what it does, the error's code)."""


@pytest.mark.parametrize("fault", BEFORE)
def test_without_a_fallback_the_client_learns_what_happened(rig: FaultRig, fault: str) -> None:
    steps, status, code = BEFORE[fault]
    rig.next("a", *steps)
    answer = rig.ask("/alone")
    assert (answer.status, answer.code) == (status, code)
    assert answer.all("x-decision-id")
    found = rig.outcome()
    assert (found.status, found.error, found.assigned, found.served) == (status, code, "v1", "")
    assert not found.fallback
    assert rig.attempts() == [("v1", code)]


@pytest.mark.parametrize("fault", BEFORE)
def test_a_fallback_hides_it_from_the_client_and_not_from_the_record(rig: FaultRig, fault: str) -> None:
    steps, _, code = BEFORE[fault]
    rig.next("a", *steps)
    answer = rig.ask("/fall")
    assert answer.status == 200
    assert answer.body == b"b|POST|/fall|2"
    assert answer.all("x-variant") == [b"v2"]
    found = rig.outcome()
    assert (found.status, found.error, found.assigned, found.served, found.fallback) == (
        200,
        code,
        "v1",
        "v2",
        True,
    )
    assert rig.attempts() == [("v1", code)]
    assert [r.body for r in rig.backends["b"].requests] == [b"{}"]


@pytest.mark.parametrize("fault", BEFORE)
def test_a_fixed_answer_stands_in(rig: FaultRig, fault: str) -> None:
    steps, _, code = BEFORE[fault]
    rig.next("a", *steps)
    answer = rig.ask("/fixed")
    assert (answer.status, answer.body) == (200, b'{"label": "unknown"}')
    found = rig.outcome()
    assert (found.error, found.assigned, found.served, found.fallback) == (code, "v1", "", True)


def test_refused(rig: FaultRig) -> None:
    answer = rig.ask("/dead/alone")
    assert (answer.status, answer.code) == (502, "backend_connect")
    assert rig.outcome().error == "backend_connect"


def test_refused_with_a_fallback(rig: FaultRig) -> None:
    assert rig.ask("/dead/fall").body == b"b|POST|/dead/fall|2"
    found = rig.outcome()
    assert (found.error, found.assigned, found.served) == ("backend_connect", "v1", "v2")


def test_refused_with_a_fixed_answer(rig: FaultRig) -> None:
    assert rig.ask("/dead/fixed").body == b'{"label": "unknown"}'
    assert rig.outcome().fallback


def test_connections_that_are_never_made_are_forgotten(rig: FaultRig) -> None:
    for _ in range(20):
        assert rig.ask("/dead/alone").status == 502
    port = rig.gateway.api.document().backends["dead"].addresses[0].port
    known = rig.gateway.registry.addresses
    (dead,) = [a for (endpoint, shadow), a in known.items() if endpoint.port == port and not shadow]
    rig.until(lambda: not dead.connections and not dead.connecting)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_status_is_passed_on_as_it_came(rig: FaultRig, status: int) -> None:
    rig.next("a", ok(b"the backend's own", status=b"%d Bad" % status))
    answer = rig.ask("/alone")
    assert (answer.status, answer.body) == (status, b"the backend's own")
    found = rig.outcome()
    assert (found.status, found.error, found.served) == (status, "backend_status", "v1")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_status_goes_to_the_fallback(rig: FaultRig, status: int) -> None:
    rig.next("a", ok(b"the backend's own", status=b"%d Bad" % status))
    assert rig.ask("/fall").body == b"b|POST|/fall|2"
    found = rig.outcome()
    assert (found.status, found.error, found.served, found.fallback) == (200, "backend_status", "v2", True)
    assert rig.attempts() == [("v1", status)]
    # The unwanted answer was read to its end, so its connection serves again.
    assert rig.ask("/alone").status == 200
    assert len(rig.backends["a"].connections) == 1


def test_an_error_status_that_is_not_listed_is_the_answer(rig: FaultRig) -> None:
    rig.next("a", ok(b"no such thing here", status=b"501 Not Implemented"))
    assert rig.ask("/fall").status == 501
    assert rig.outcome().error == "backend_status"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/alone", "/fall"])
@pytest.mark.parametrize("fault", AFTER)
def test_after_the_first_byte_the_client_sees_that_it_is_not_whole(
    rig: FaultRig, fault: str, path: str
) -> None:
    steps, code = AFTER[fault]
    rig.next("a", *steps)
    with rig.client() as client:
        client.send(request(path))
        with pytest.raises(Cut) as cut:
            client.answer()
        assert cut.value.got in (b"", b"abc")
    found = rig.outcome()
    assert (found.status, found.error, found.assigned, found.served) == (200, code, "v1", "v1")
    assert not found.fallback
    assert rig.backends["b"].requests == []
    rig.until(lambda: not any(c.open for c in rig.backends["a"].connections))


def test_truncation_is_told_at_once(rig: FaultRig) -> None:
    rig.next("a", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", CLOSE)
    with rig.client() as client:
        client.send(request("/alone"))
        with pytest.raises(Cut):
            client.answer()
    assert rig.outcome().error == "backend_truncated", "not a timeout"


def test_more_than_the_length_says_is_nobodys(rig: FaultRig) -> None:
    rig.next("a", ok(b"ab") + b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nswapped")
    with rig.client() as client:
        for expected in (b"ab", b"a|POST|/alone|2"):
            client.send(request("/alone"))
            answer = client.answer()
            assert (answer.status, answer.body) == (200, expected)
    assert len(rig.backends["a"].connections) == 2  # the first is not used again


@pytest.mark.parametrize("status", [b"200 OK", b"413 Too Large"])
def test_an_answer_before_the_body_was_read(rig: FaultRig, status: bytes) -> None:
    rig.next("a", EARLY, ok(b"early", b"connection: close", status=status), CLOSE)
    with rig.client() as client:
        client.send(b"POST /alone HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n" + bytes(1000))
        answer = client.answer()
        assert (answer.status, answer.body) == (int(status[:3]), b"early")
        assert answer.all("connection") == [b"close"]
        assert client.at_end()
    found = rig.outcome()
    assert (found.status, found.error) == (int(status[:3]), "")


def test_no_fallback_starts_for_a_client_that_has_left(rig: FaultRig) -> None:
    rig.next("a", HOLD)
    with rig.client() as client:
        client.send(request("/fall"))
        rig.until(lambda: rig.backends["a"].requests)
    rig.until(lambda: rig.outcomes)
    assert not any(c.open for c in rig.backends["a"].connections)
    assert rig.backends["b"].requests == []
    found = rig.outcome()
    assert (found.status, found.error, found.fallback) == (499, "client_left", False)


def test_both_fail(rig: FaultRig) -> None:
    rig.next("a", RESET)
    rig.next("b", b"garbage\r\n\r\n")
    answer = rig.ask("/fall")
    assert (answer.status, answer.code) == (502, "backend_protocol")
    found = rig.outcome()
    assert (found.error, found.assigned, found.served, found.fallback) == ("backend_reset", "v1", "", False)
    assert rig.attempts() == [("v1", "backend_reset"), ("v2", "backend_protocol")]


@pytest.mark.long
def test_the_total_time_is_for_all_attempts_and_a_fixed_answer_needs_none(rig: FaultRig) -> None:
    """400 ms for the first byte, 1.5 s in all: the trickling body of the first leaves nothing for a second."""
    rig.next("a", HOLD)
    rig.next("b", 1.4, ok())
    answer = rig.ask("/fall")
    assert (answer.status, answer.code) == (504, "backend_first_byte_timeout")
