"""Values of usage: none is lost while it waits, and what is too much is counted and told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, Histogram

from gateway.config.document import Document
from gateway.ingest import usage as module
from gateway.ingest.rewards import RewardIngest
from gateway.ingest.usage import UsageRewards
from gateway.record.events import Outcome, Reward
from gateway.record.usage import UsageReader
from gateway.state.base import StoreUnavailable
from tests.support.made import T0, outcome, reward


class Ingest:
    """Where neither store nor spool takes anything while it is away."""

    def __init__(self) -> None:
        self.away = False
        self.calling = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.kept: list[Reward] = []

    def observed(self, of: Outcome, name: str, value: float, context: bytes) -> Reward:
        return reward(value, of=of)

    async def keep(self, rewards: list[Reward]) -> None:
        self.calling.set()
        await self.go_on.wait()
        if self.away:
            raise StoreUnavailable("away")
        self.kept += rewards


@pytest.fixture
def ingest() -> Ingest:
    return Ingest()


@pytest.fixture
def values(ingest: Ingest) -> UsageRewards:
    document = Document.model_validate(
        {
            "backends": {"b": {"url": "http://127.0.0.1:1"}},
            "metrics": {"tokens": {"type": "count", "usage": "total_tokens"}},
            "routes": {
                "digits": {
                    "match": {"path": "/"},
                    "variants": {"v1": {"backend": "b"}},
                    "policy": {"type": "single", "variant": "v1"},
                }
            },
        }
    )
    histogram = Histogram("h", "h", ["route", "variant"], registry=CollectorRegistry())
    return UsageRewards(cast("RewardIngest", ingest), lambda: document, histogram)


def offer(values: UsageRewards, number: int) -> None:
    reader = UsageReader()
    reader.feed(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}}')
    values.offer(cast("tuple[Any, ...]", outcome(T0 + number)), b"", reader)


async def test_what_comes_while_the_store_is_away_stays_within_the_bound(
    values: UsageRewards, ingest: Ingest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    ingest.away = True
    for round_ in range(4):
        ingest.calling.clear()
        ingest.go_on.clear()
        offer(values, round_)
        flushing = asyncio.create_task(values.flush())
        await ingest.calling.wait()
        for number in range(5):
            offer(values, 10 * (round_ + 1) + number)
        ingest.go_on.set()
        await flushing
    assert values.dropped == 4 * 6 - 5
    ingest.away = False
    await values.flush()
    assert len(ingest.kept) == 5
    assert [record.getMessage() for record in caplog.records] == [
        "2 values of usage were dropped: 5 wait, and neither the store nor the spool takes them"
    ]


async def test_a_shutdown_in_the_middle_of_a_write_loses_nothing(
    values: UsageRewards, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.001)
    ingest.go_on.clear()
    offer(values, 0)
    running = asyncio.create_task(values.run())
    await asyncio.wait_for(ingest.calling.wait(), 60)
    ingest.go_on.set()
    running.cancel()
    await asyncio.wait({running})
    await values.close()
    assert len(ingest.kept) == 1


async def test_what_cannot_be_stored_at_the_end_is_counted(
    values: UsageRewards, ingest: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    ingest.away = True
    offer(values, 0)
    await values.close()
    assert values.dropped == 1
    assert [record.getMessage() for record in caplog.records] == [
        "1 values of usage could not be stored and are lost"
    ]
