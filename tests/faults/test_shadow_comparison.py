"""What is compared of a shadow's response with the client's, and what is not."""

from __future__ import annotations

import json

import pytest

from tests.faults.rig import FaultRig, request
from tests.faults.shadowed import CONFIG, NAMES, counts, forget, json_answer, row
from tests.support.backend import CLOSE, HOLD, RESET, Step, chunked, ok

__all__ = ["CONFIG", "NAMES"]


@pytest.fixture(autouse=True)
def start(rig: FaultRig) -> None:
    forget(rig)


def test_answers_that_agree(rig: FaultRig) -> None:
    rig.next("a", json_answer({"x": 1.0, "y": ["z"]}))
    rig.next("s", json_answer({"y": ["z"], "x": 1.00001}))
    rig.ask("/one")
    found = row(rig)
    assert (found.agrees, found.error, found.status, found.route) == (True, "", 200, "one")
    assert found.difference == pytest.approx(1e-5)
    assert found.decision == rig.outcome().decision
    assert found.latency_ms > 0


def test_answers_that_differ(rig: FaultRig) -> None:
    rig.next("a", json_answer({"x": 1.0}))
    rig.next("s", json_answer({"x": 1.25}))
    rig.ask("/one")
    found = row(rig)
    assert (found.agrees, found.difference) == (False, 0.25)
    assert json.loads(found.detail)["first"][0]["where"] == "x"


def test_the_comparison_of_the_route(rig: FaultRig) -> None:
    rig.next("a", json_answer({"x": 1.0}))
    rig.next("s", json_answer({"x": 1.25}))
    rig.ask("/near")
    assert row(rig).agrees is True


def test_statuses_that_differ(rig: FaultRig) -> None:
    rig.next("a", json_answer({"x": 1}))
    rig.next("s", ok(b"", status=b"404 None"))
    rig.ask("/one")
    found = row(rig)
    assert (found.agrees, found.status, found.error) == (False, 404, "")
    assert json.loads(found.detail)["first"] == [{"where": "status", "primary": "200", "shadow": "404"}]


def test_nothing_is_compared_with_a_primary_that_failed(rig: FaultRig) -> None:
    rig.next("a", RESET)
    assert rig.ask("/one").status == 502
    found = row(rig)
    assert (found.agrees, found.error, found.primary) == (None, "", "")


@pytest.mark.long
def test_large_answers_are_compared_by_another_process(rig: FaultRig) -> None:
    first = [0.5 + n for n in range(8000)]
    rig.next("a", json_answer({"data": first}))
    rig.next("s", json_answer({"data": [*first[:-1], 7.0]}))
    rig.ask("/one")
    rig.until(lambda: rig.shadowed)
    found = row(rig)
    assert found.agrees is False
    assert found.difference == pytest.approx(7992.5)


def test_an_answer_over_the_limit_is_not_compared(rig: FaultRig) -> None:
    rig.next("a", ok(bytes(70_000)))
    rig.next("s", ok(b"small"))
    assert len(rig.ask("/one").body) == 70_000
    found = row(rig)
    assert (found.agrees, found.error) == (None, "")
    assert found.detail == "the primary's response is larger than limits.shadow.answer"
    assert counts(rig, "one")["uncompared:too_large"] == 1


def test_a_response_that_can_not_be_read_is_not_compared(rig: FaultRig) -> None:
    rig.next("a", ok(b"{", b"content-type: application/json"))
    rig.next("s", json_answer({"x": 1}))
    rig.ask("/one")
    found = row(rig)
    assert (found.agrees, found.detail) == (None, "the body is not valid JSON")
    assert counts(rig, "one")["uncompared:unreadable"] == 1


def test_a_chunked_answer_is_compared_by_what_it_says(rig: FaultRig) -> None:
    rig.next("a", chunked(b'{"x":', b" 1}", lines=b"content-type: application/json\r\n"))
    rig.next("s", json_answer({"x": 1}))
    rig.ask("/one")
    assert row(rig).agrees is True


# A primary's response that did not come whole ----------------------------------------------------------

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ENDS: dict[str, list[Step]] = {
    "openai": [piece(b'data: {"x": 1}\n\ndata: [DONE]\n\n')],
    "anthropic": [piece(b'event: message_stop\ndata: {"type":"message_stop"      }\n\n')],
    "in-two-reads": [piece(b'data: {"x": 1}\n\ndata: [DO'), 0.05, piece(b"NE]\n\n")],
}


@pytest.mark.parametrize("end", ENDS)
def test_a_client_that_leaves_behind_the_terminal_event_had_everything(rig: FaultRig, end: str) -> None:
    rig.next("a", EVENTS, *ENDS[end], HOLD)
    rig.next("s", EVENTS, *ENDS[end], piece(b""))
    with rig.client() as client:
        client.send(request("/one"))
        client.until(b"]\n\n" if end != "anthropic" else b"      }\n\n")
    outcome = rig.outcome()
    assert (outcome.status, outcome.error, outcome.served) == (200, "", "v1")
    assert row(rig).agrees is True


def test_a_client_that_leaves_behind_a_known_length_had_everything(rig: FaultRig) -> None:
    rig.next("a", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwhole", 0.05, b"body")
    rig.next("s", ok(b"wholebody"))
    with rig.client() as client:
        client.send(request("/one"))
        client.until(b"wholebody")
    assert rig.outcome().status == 200
    assert row(rig).agrees is True


@pytest.mark.parametrize("said", [b'data: {"x": 1}\n\n', b"data: [DO", b'data: {"x": "data: [DONE]"}\n\n'])
def test_a_response_that_the_client_did_not_wait_for_is_not_compared(rig: FaultRig, said: bytes) -> None:
    rig.next("a", EVENTS, piece(said), HOLD)
    rig.next("s", EVENTS, piece(said), piece(b""))
    with rig.client() as client:
        client.send(request("/one"))
        client.until(said)
    outcome = rig.outcome()
    assert (outcome.status, outcome.error) == (499, "client_left")
    found = row(rig)
    assert (found.agrees, found.detail) == (None, "the primary's response was cut short")
    assert counts(rig, "one") == {"offered": 1, "sent": 1, "uncompared:cut_short": 1}


def test_a_response_that_broke_off_is_not_compared(rig: FaultRig) -> None:
    rig.next("a", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwhole", CLOSE)
    rig.next("s", ok(b"wholebody"))
    with rig.client() as client:
        client.send(request("/one"))
        client.until(b"whole")
        rig.until(lambda: rig.outcomes)
    found = row(rig)
    assert (found.agrees, found.detail) == (None, "the primary's response was cut short")
