"""Connect, first byte, idle and total are four timers, each with its own error; a slow client sets off none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.faults.rig import FaultRig, request
from tests.support.backend import EARLY, HOLD, Flood, ok
from tests.support.client import Cut

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  b: {url: "http://127.0.0.1:@B@", ejection: null}
  full: {url: "http://127.0.0.1:@DEAD@", ejection: null}
routes:
  alone:
    match: {path: /alone}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    timeouts: {connect: 300ms, first_byte: 800ms, idle: 600ms, total: 900ms}
  total:
    match: {path: /total}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2, {respond: {status: 203, text: "the last resort"}}]
    timeouts: {first_byte: 400ms, total: 600ms}
  only-total:
    match: {path: /only-total}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {first_byte: 400ms, total: 600ms}
  full:
    match: {path: /full}
    variants: {v1: {backend: full}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    timeouts: {connect: 300ms, first_byte: 20s}
  full-fall:
    match: {path: /full-fall}
    variants: {v1: {backend: full}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    fallback: [v2]
    timeouts: {connect: 300ms, first_byte: 20s}
  patient:
    match: {path: /patient}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    timeouts: {first_byte: 600ms, idle: 900ms, total: null}
"""


@pytest.fixture
def full(rig: FaultRig) -> Iterator[None]:
    with rig.full_listener():
        yield


@pytest.mark.long
@pytest.mark.usefixtures("full")
def test_connecting_takes_too_long(rig: FaultRig) -> None:
    begun = time.monotonic()
    answer = rig.ask("/full")
    assert 0.25 < time.monotonic() - begun < 15
    assert (answer.status, answer.code) == (504, "backend_connect_timeout")
    assert rig.outcome().error == "backend_connect_timeout"
    assert rig.attempts() == [("v1", "backend_connect_timeout")]


@pytest.mark.usefixtures("full")
def test_connecting_takes_too_long_with_a_fallback(rig: FaultRig) -> None:
    assert rig.ask("/full-fall").body == b"b|POST|/full-fall|2"
    assert rig.outcome().error == "backend_connect_timeout"


@pytest.mark.usefixtures("full")
def test_a_client_that_leaves_while_connecting(rig: FaultRig) -> None:
    with rig.client() as client:
        client.send(request("/full"))
        rig.until(lambda: rig.worker.active)
    assert rig.outcome().status == 499


@pytest.mark.long
def test_the_idle_timer_is_put_back_by_each_piece_and_the_total_is_not(rig: FaultRig) -> None:
    rig.next(
        "a", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", *[s for _ in range(9) for s in (0.15, b"x")]
    )
    begun = time.monotonic()
    with rig.client() as client:
        client.send(request("/alone"))
        with pytest.raises(Cut):
            client.answer()
    assert time.monotonic() - begun > 0.8
    assert rig.outcome().error == "backend_total_timeout"


@pytest.mark.long
def test_without_a_total_a_stream_goes_on(rig: FaultRig) -> None:
    rig.next(
        "a", b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", *[s for _ in range(6) for s in (0.2, b"x")]
    )
    assert rig.ask("/patient").body == b"xxxxxx"


@pytest.mark.long
def test_the_total_covers_all_attempts_and_ends_with_its_own_error(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    rig.always("b", HOLD)
    begun = time.monotonic()
    answer = rig.ask("/only-total")
    assert time.monotonic() - begun > 0.5
    assert (answer.status, answer.code) == (504, "backend_total_timeout")
    found = rig.outcome()
    assert found.error == "backend_first_byte_timeout"  # the assigned variant's own
    assert rig.attempts() == [("v1", "backend_first_byte_timeout"), ("v2", "backend_total_timeout")]
    for name in ("a", "b"):
        assert not any(c.open for c in rig.backends[name].connections)


@pytest.mark.long
def test_a_fixed_answer_costs_no_time_so_it_serves_when_none_is_left(rig: FaultRig) -> None:
    rig.always("a", HOLD)
    rig.always("b", HOLD)
    answer = rig.ask("/total")
    assert (answer.status, answer.body) == (203, b"the last resort")
    assert rig.outcome().fallback


@pytest.mark.long
def test_a_slow_upload_is_not_the_backends_fault(rig: FaultRig) -> None:
    """The first-byte timer runs from the request's last byte."""
    with rig.client() as client:
        client.send(b"POST /patient HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n")
        client.send(*[piece for _ in range(5) for piece in (0.15, b"x")])
        assert client.answer().body == b"a|POST|/patient|5"
    assert rig.outcome().error == ""


@pytest.mark.long
def test_a_slow_reader_is_not_the_backends_fault(rig: FaultRig) -> None:
    """While the answer is not read on, because the client takes nothing, no timer of the backend's runs."""
    rig.next("a", ok(bytes(4 << 20)))
    with rig.client(receive_buffer=4096) as client:
        client.send(request("/patient"))
        time.sleep(1.0)
        assert len(client.answer().body) == 4 << 20
    found = rig.outcome()
    assert (found.error, found.answer_bytes) == ("", 4 << 20)


# What a client delays is not the backend's failure -------------------------------------------------------


@pytest.mark.long
def test_an_upload_that_outlasts_the_total_is_the_clients(rig: FaultRig) -> None:
    with rig.client() as client:
        client.send(b"POST /alone HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n")
        client.send(*[piece for _ in range(5) for piece in (b"x", 0.25)])
        assert client.answer().code == "request_timeout"
    assert (rig.outcome().status, rig.outcome().failed) == (408, False)


@pytest.mark.long
def test_a_response_that_waits_for_the_rest_of_the_upload_is_not_late(rig: FaultRig) -> None:
    rig.next("a", EARLY, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun", HOLD)
    with rig.client() as client:
        client.send(b"POST /alone HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nx")
        with pytest.raises(Cut):
            client.answer()
    assert (rig.outcome().error, rig.outcome().failed) == ("client_left", False)


@pytest.mark.long
def test_a_response_that_nobody_reads_is_not_late(rig: FaultRig) -> None:
    rig.next("a", b"HTTP/1.1 200 OK\r\ncontent-length: 33554432\r\n\r\n", Flood(32 << 20))
    with rig.client(receive_buffer=4096) as client:
        client.send(request("/alone"))
        rig.until(lambda: rig.outcomes)
        with contextlib.suppress(Cut):
            client.answer()
    assert (rig.outcome().error, rig.outcome().failed) == ("client_left", False)
