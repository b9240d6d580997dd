"""The buffer of rewards by itself, without a gateway."""

from __future__ import annotations

import pytest

from turnout.outbox import MAX_DELAY_S, Outbox


@pytest.mark.parametrize("status", [0, 503])
def test_an_outage_of_hours_does_not_end_the_reports(status: int) -> None:
    outbox = Outbox(10)
    outbox.put({"decision_id": "d", "metric": "m", "value": 1})
    delays = [outbox.settle(1, status, b"", None) for _ in range(1500)]
    assert max(delays) <= MAX_DELAY_S
    assert outbox.settle(1, 200, b'{"rejected": []}', None) == 0.0
    assert len(outbox) == 0
