"""Rewards of requests that nodes served: which are accepted without the row, and which only with it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.service import MetricConfig
from gateway.ingest.rewards import RewardIngest
from gateway.ingest.sealing_keys import SEALING_KEYS
from gateway.ingest.stamped import StampedUnits
from gateway.record.decision_id import Sealer
from gateway.record.events import Outcome
from gateway.record.stamp import Stamp
from gateway.state.base import StoreUnavailable
from gateway.state.sqlite import SqliteStore
from tests.engines.test_stamps import UUID

NOW = 1_800_000_100.0
SEALER = Sealer([b"k" * 32])


def decision_id(variant: str = "v2", *, epoch: int = 7, uuid: str = UUID, served: str = "v2") -> str:
    stamp = SEALER.stamp(Stamp("digits", variant, epoch, 0.1, NOW - 50))
    return f"{stamp}.{int(NOW * 1000)}.{uuid}.{served}"


async def recorded(store: SqliteStore) -> None:
    opened = SEALER.open(decision_id())
    fields: dict[str, Any] = dict.fromkeys(Outcome._fields, "")
    fields |= dict.fromkeys(("forced", "fallback"), False)
    fields |= dict.fromkeys(("gateway_ms", "backend_ms", "total_ms"), 1.0)
    fields |= {"decision": opened.decision, "time": NOW, "route": "digits", "policy": "split", "revision": 1}
    fields |= {"epoch": 7, "unit": 42, "sticky": True, "assigned": "v2", "served": "v1", "propensity": 0.1}
    fields |= {"status": 200, "request_bytes": 1, "answer_bytes": 1}
    await store.append([Outcome(**fields)])


def ingest(store: SqliteStore, *, joined: bool, sealer: Sealer = SEALER) -> RewardIngest:
    units = StampedUnits(store, lambda route: False, lambda route: joined, lambda: 0.0)
    metrics = {"good": MetricConfig(type="boolean", window=3600.0)}
    return RewardIngest(store, sealer, metrics=metrics, clock=lambda: NOW + 1, stamped_units=units)


def item(identity: str) -> dict[str, Any]:
    return {"decision_id": identity, "metric": "good", "value": True}


FORGED = {
    "another request": decision_id(uuid=UUID.replace("0", "1")),
    "another variant's stamp": decision_id("v1"),
    "another epoch's stamp": decision_id(epoch=8),
}


@pytest.mark.parametrize("identity", FORGED.values(), ids=FORGED)
async def test_joined_refuses_a_request_that_no_node_reported(store: SqliteStore, identity: str) -> None:
    await recorded(store)
    (refused,) = (await ingest(store, joined=True).take([item(identity)])).rejected
    assert refused.code == "unknown_request"
    assert (await ingest(store, joined=False).take([item(identity)])).accepted == 1


async def test_joined_takes_the_row_s_word_on_who_served(store: SqliteStore) -> None:
    await recorded(store)
    ((reward, _),) = (await ingest(store, joined=True).take([item(decision_id(served="invented"))])).rewards
    assert (reward.served, reward.unit) == ("v1", 42)
    again = await ingest(store, joined=True).take([item(decision_id())])
    assert (again.accepted, again.duplicates) == (0, 1), "a replayed id counts once"


async def test_joined_holds_for_an_id_whose_key_is_read_meanwhile(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await recorded(store)
    sealer = Sealer(await store.secrets(SEALING_KEYS))

    async def with_ours(name: str) -> tuple[bytes, ...]:
        return (b"k" * 32,)

    monkeypatch.setattr(store, "secrets", with_ours)
    late = ingest(store, joined=True, sealer=sealer)
    report = await late.take([item(decision_id()), item(FORGED["another request"])])
    assert [reward.unit for reward, _ in report.rewards] == [42]
    assert [refused.code for refused in report.rejected] == ["unknown_request"]


async def test_joined_can_not_be_told_while_the_store_is_away(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(decision: bytes, route: str) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "decision", away)
    with pytest.raises(StoreUnavailable):
        await ingest(store, joined=True).take([item(decision_id())])
    assert (await ingest(store, joined=False).take([item(decision_id())])).accepted == 1
