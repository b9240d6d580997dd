"""The buffer of rewards by itself, without a gateway."""

from __future__ import annotations

import math
import threading

import httpx
import pytest

from turnout import Client
from turnout.outbox import MAX_DELAY_S, Outbox


@pytest.mark.parametrize("status", [0, 503])
def test_an_outage_of_hours_does_not_end_the_reports(status: int) -> None:
    outbox = Outbox(10)
    outbox.put({"decision_id": "d", "metric": "m", "value": 1})
    delays = [outbox.settle(1, status, b"", None) for _ in range(1500)]
    assert max(delays) <= MAX_DELAY_S
    assert outbox.settle(1, 200, b'{"rejected": []}', None) == 0.0
    assert len(outbox) == 0


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b"[" * 100_000, "unexpected_response"),
        (400, b'{"error": {"code": {}, "message": []}}', "{}"),
        (200, b'{"rejected": [{"index": 0, "code": [], "message": null}]}', "[]"),
    ],
    ids=["nested", "objects", "lists"],
)
def test_no_response_of_another_server_ends_the_reports(status: int, body: bytes, code: str) -> None:
    outbox = Outbox(10)
    outbox.put({"decision_id": "d", "metric": "m", "value": 1})
    assert outbox.settle(1, status, body, None) == 0.0
    assert [one.code for one in outbox.rejected] == [code]


def test_a_flush_may_wait_without_limit() -> None:
    """It raised OverflowError, and `close` with it, which lost what was buffered."""
    gate, sent = threading.Event(), list[bytes]()

    def respond(request: httpx.Request) -> httpx.Response:
        assert gate.wait(30)
        sent.append(request.content)
        return httpx.Response(200, json={"accepted": 1, "duplicates": 0, "updated": 0, "rejected": []})

    client = Client("http://127.0.0.1:1", transport=httpx.MockTransport(respond))
    client.decision("d").reward("m", 1)
    threading.Timer(0.1, gate.set).start()
    client.close(timeout=math.inf)
    assert len(sent) == 1
