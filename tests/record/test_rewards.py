"""Reports checked, item by item."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.service import MetricConfig
from gateway.errors import TurnoutError
from gateway.ingest.metric_values import worst
from gateway.ingest.rewards import MAX_ITEMS, FeedbackReport, RewardIngest
from gateway.ingest.spool import Spool
from gateway.record.decision_id import Sealer
from gateway.record.events import Reward
from gateway.state.base import RewardResult, StoreUnavailable
from gateway.state.sqlite import SqliteStore
from policies.types import RewardSums
from tests.support.made import outcome

NOW = 1_700_000_000.0
SEALER = Sealer([b"k" * 32])


METRICS = {
    "correct": MetricConfig(type="boolean"),
    "score": MetricConfig(type="fraction"),
    "clicks": MetricConfig(type="count"),
    "amount": MetricConfig(type="real"),
    "revenue": MetricConfig(type="real", minimum=0.0, cap=50.0),
    "delay": MetricConfig(type="real", goal="minimize", window=60.0, minimum=0.0, maximum=100.0),
}


class Away(SqliteStore):
    away = False
    keys: tuple[bytes, ...] = (b"k" * 32,)

    reads = 0

    async def secrets(self, name: str) -> tuple[bytes, ...]:
        self.reads += 1
        if self.away:
            raise StoreUnavailable("The store is switched off; switch it on.")
        return self.keys

    async def reward(self, rewards_: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        if self.away:
            raise StoreUnavailable("The store is switched off; switch it on.")
        return await super().reward(rewards_, replay=replay)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Away]:
    made = Away(tmp_path / "store.db")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def book(store: Away) -> RewardIngest:
    SEALER.renew([b"k" * 32])
    return RewardIngest(store, SEALER, metrics=METRICS, clock=lambda: NOW)


def sealed(
    ago: float = 10.0, *, route: str = "digits", assigned: str = "v1", served: str = "v1", **kw: Any
) -> str:
    static = Sealer.static(route, assigned, served, kw.get("epoch", 3), 0.5, kw.get("forced", False))
    decision = SEALER.new_decision(NOW - ago)
    return SEALER.seal(decision, kw.get("unit", int.from_bytes(decision[8:], "big")), static).decode()


def item(metric: str = "correct", value: object = True, **fields: Any) -> dict[str, Any]:
    return {"decision_id": fields.pop("id", None) or sealed(), "metric": metric, "value": value, **fields}


def codes(report: FeedbackReport) -> list[tuple[int, str]]:
    return [(r.index, r.code) for r in report.rejected]


async def test_a_batch_is_answered_item_by_item(book: RewardIngest, store: Away) -> None:
    same = sealed()
    report = await book.take(
        [
            item(id=same), item(id=same, value=1), item(id=same, value=False), item("nonsense"),
            item(id="forged"), item("score", 0.25, tags={"b": 1, "a": "ü"}), item(id=same, value=None),
        ]
    )  # fmt: skip
    assert report.as_dict() | {"rejected": []} == {
        "accepted": 2,
        "duplicates": 1,
        "updated": 2,
        "rejected": [],
    }
    assert codes(report) == [(3, "unknown_metric"), (4, "malformed")]
    assert "nonsense" in report.rejected[0].message
    assert await store.reward_sums("digits") == {("v1", "score"): RewardSums(1, 0.25, 0.0625)}
    kept = [reward for reward, _ in report.rewards]
    assert kept[3].tags == '{"a":"ü","b":1}'
    assert (kept[0].time, kept[0].period, kept[0].epoch, kept[0].propensity) == (NOW, "", 3, 0.5)
    assert book.counts == {"accepted": 2, "duplicate": 1, "updated": 2, "rejected": 2}


@pytest.mark.parametrize(
    ("metric", "value", "kept"),
    [
        ("correct", True, 1.0), ("correct", False, 0.0), ("correct", 0, 0.0), ("correct", 1.0, 1.0),
        ("score", 0, 0.0), ("score", 0.5, 0.5), ("clicks", 3, 3.0), ("clicks", 3.0, 3.0),
        ("amount", -2.5, -2.5), ("amount", 10**15, 1e15), ("delay", 100, 100.0), ("revenue", 49.5, 49.5),
        ("revenue", 9_000, 50.0),
    ],
)  # fmt: skip
async def test_values_that_fit(book: RewardIngest, metric: str, value: object, kept: float) -> None:
    report = await book.take([item(metric, value)])
    assert report.accepted == 1
    assert report.rewards[0][0].value == kept


@pytest.mark.parametrize(
    ("metric", "value", "code"),
    [
        ("correct", 2, "invalid"), ("correct", 0.5, "invalid"), ("correct", "true", "invalid"),
        ("score", 1.01, "out_of_bounds"), ("score", -0.01, "out_of_bounds"), ("score", True, "invalid"),
        ("clicks", 1.5, "invalid"), ("clicks", -1, "out_of_bounds"), ("amount", math.nan, "invalid"),
        ("amount", math.inf, "invalid"), ("amount", 10**400, "invalid"), ("amount", [1], "invalid"),
        ("delay", 100.5, "out_of_bounds"),
    ],
)  # fmt: skip
async def test_values_that_do_not(book: RewardIngest, metric: str, value: object, code: str) -> None:
    report = await book.take([item(metric, value)])
    assert codes(report) == [(0, code)]
    assert report.accepted == 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=8,
    )
)
def test_no_item_makes_it_stumble(given_item: object) -> None:
    import asyncio

    book = RewardIngest(None, SEALER, metrics=METRICS, clock=lambda: NOW)  # type: ignore[arg-type]
    report = asyncio.run(
        book.take([given_item, {"decision_id": "x", "metric": "correct", "value": given_item}])
    )
    assert len(report.rejected) == 2


@pytest.mark.parametrize(
    "bad",
    [
        "text", {}, {"decision_id": 7, "metric": "correct", "value": 1},
        {"decision_id": "x", "metric": "correct"}, item(extra=1), item(tags=[1]), item(tags={"a": {"b": 1}}),
        item(tags={"a": math.nan}), item(tags={"a": "x" * 2000}),
    ],
)  # fmt: skip
async def test_items_of_another_shape(book: RewardIngest, bad: object) -> None:
    assert codes(await book.take([bad])) == [(0, "invalid")]


async def test_the_window_of_the_metric(book: RewardIngest) -> None:
    report = await book.take(
        [
            item(id=sealed(3599)),
            item(id=sealed(3601)),
            item("delay", 1, id=sealed(61)),
            item("delay", None, id=sealed(61)),
            item(id=sealed(-30)),
            item(id=sealed(-61)),
        ]
    )
    assert codes(report) == [
        (1, "window_closed"),
        (2, "window_closed"),
        (3, "window_closed"),
        (5, "clock_skew"),
    ]


async def test_whose_key_may_report_what(book: RewardIngest) -> None:
    book.allowed = lambda route, metric: (route, metric) != ("digits", "clicks")
    items = [
        item(),
        item(id=sealed(route="other")),
        item("clicks", 1),
        item("clicks", 1, id=sealed(route="third")),
    ]
    report = await book.take(items, may_report=lambda route: route != "other")
    assert codes(report) == [(1, "forbidden"), (2, "unknown_metric")]


async def test_forged_and_foreign_ids(book: RewardIngest) -> None:
    foreign = Sealer([b"other" * 5])
    static = Sealer.static("digits", "v1", "v1", 1, 1.0, False)
    unknown = foreign.seal(foreign.new_decision(NOW), 1, static).decode()
    forged = sealed()[:-4] + "AAAA"
    assert codes(await book.take([item(id=forged), item(id=unknown)])) == [(0, "forged"), (1, "unknown_key")]


async def test_a_key_that_another_replica_has_just_added_is_read_before_an_id_is_refused(
    book: RewardIngest, store: Away
) -> None:
    foreign = Sealer([b"other" * 5])
    static = Sealer.static("digits", "v1", "v1", 1, 1.0, False)
    by_another = foreign.seal(foreign.new_decision(NOW), 1, static).decode()
    store.keys = (*store.keys, b"other" * 5)
    report = await book.take([item(id=by_another), item(id=by_another), item()])
    assert (report.accepted, report.duplicates, report.rejected) == (2, 1, [])


async def test_a_key_that_is_added_right_after_a_read_is_read_too(book: RewardIngest, store: Away) -> None:
    """Otherwise a valid reward would be refused for good because of an unknown id a moment before."""
    other = b"other" * 5
    foreign, strange = Sealer([other]), Sealer([b"strange" * 5])
    static = Sealer.static("digits", "v1", "v1", 1, 1.0, False)
    unknown = strange.seal(strange.new_decision(NOW), 1, static).decode()
    assert codes(await book.take([item(id=unknown)])) == [(0, "unknown_key")]
    store.keys = (*store.keys, other)
    items = [item(id=foreign.seal(foreign.new_decision(NOW - k), 1, static).decode()) for k in range(3)]
    found = await asyncio.gather(
        book.take(items), book.take([item(id=unknown)]), book.take([item(id=unknown)])
    )
    assert [report.accepted for report in found] == [3, 0, 0]
    assert store.reads == 2


async def test_a_key_that_cannot_be_looked_up_is_no_reason_to_refuse_a_reward(
    book: RewardIngest, store: Away
) -> None:
    """Once the store is back, its key may be there."""
    other = b"other" * 7
    foreign = Sealer([other])
    static = Sealer.static("digits", "v1", "v1", 1, 1.0, False)
    items = [item(id=foreign.seal(foreign.new_decision(NOW), 1, static).decode())]
    store.away = True
    found = await asyncio.gather(*(book.take(items) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [StoreUnavailable] * 3
    store.away, store.keys = False, (*store.keys, other)
    assert (await book.take(items)).accepted == 1


async def test_an_unknown_metric_may_be_one_of_the_newest_configuration(store: Away) -> None:
    settled = False
    book = RewardIngest(store, SEALER, metrics=METRICS, clock=lambda: NOW, settled=lambda: settled)
    with pytest.raises(StoreUnavailable, match="report again"):
        await book.take([item(), item(metric="new")])
    settled = True
    assert codes(await book.take([item(), item(metric="new")])) == [(1, "unknown_metric")]


@pytest.mark.long
async def test_while_it_starts_a_process_waits_for_keys_that_others_write_back(store: Away) -> None:
    """A replica that starts on an emptied store would refuse rewards for older decisions for good."""
    mine, old = b"new" * 9, b"old" * 9
    sealer, before = Sealer([mine]), Sealer([old])
    static = Sealer.static("digits", "v1", "v1", 1, 1.0, False)
    id_before = before.seal(before.new_decision(NOW), 1, static).decode()
    store.keys = (mine,)
    starting = RewardIngest(store, sealer, metrics=METRICS, clock=lambda: NOW, starting_s=60.0)
    report = asyncio.create_task(starting.take([item(id=id_before), item(id=id_before)]))
    while store.reads < 2:  # once at least it was not there
        await asyncio.sleep(0.01)
    assert not report.done()
    store.keys = (mine, old)
    assert (await report).as_dict() == {"accepted": 1, "duplicates": 1, "updated": 0, "rejected": []}


@pytest.mark.long
async def test_a_process_that_has_started_waits_no_longer(store: Away) -> None:
    strange = Sealer([b"strange" * 5])
    static = Sealer.static("digits", "v1", "v1", 1, 1.0, False)
    unknown = [item(id=strange.seal(strange.new_decision(NOW), k, static).decode()) for k in range(3)]
    starting = RewardIngest(store, SEALER, metrics=METRICS, clock=lambda: NOW, starting_s=1.5)
    assert codes(await starting.take(unknown)) == [(k, "unknown_key") for k in range(3)]
    assert store.reads <= 4


async def test_a_rescued_decision_counts_as_the_worst(book: RewardIngest, store: Away) -> None:
    rescued: dict[str, Any] = {"assigned": "v2", "served": "v1"}
    await book.take(
        [
            item("correct", True, id=sealed(**rescued)),
            item("delay", 3, id=sealed(**rescued)),
            item("amount", 3, id=sealed(**rescued)),
            item("correct", True, id=sealed(forced=True)),
        ]
    )
    assert await store.reward_sums("digits") == {
        ("v2", "correct"): RewardSums(1, 0.0, 0.0),
        ("v2", "delay"): RewardSums(1, 100.0, 10_000.0),
        ("v2", "correct|rescued"): RewardSums(1, 0.0, 0.0),
        ("v2", "delay|rescued"): RewardSums(1, 100.0, 10_000.0),
    }


def test_the_worst_value_of_each_metric() -> None:
    assert [worst(m) for m in METRICS.values()] == [0.0, 0.0, 0.0, None, 0.0, 100.0]
    assert worst(MetricConfig(type="count", goal="minimize")) is None
    assert worst(MetricConfig(type="count", goal="minimize", cap=9.0)) == 9.0
    assert worst(MetricConfig(type="real", goal="maximize", maximum=5.0)) is None
    assert worst(MetricConfig(type="fraction", goal="minimize", minimum=0.5)) == 1.0


async def test_too_many_items(book: RewardIngest) -> None:
    with pytest.raises(TurnoutError, match="at most 10000"):
        await book.take([{}] * (MAX_ITEMS + 1))
    report = await book.take([item() for _ in range(1000)])
    assert report.accepted == 1000


async def test_without_a_spool_a_store_that_is_away_is_an_error(book: RewardIngest, store: Away) -> None:
    store.away = True
    with pytest.raises(StoreUnavailable):
        await book.take([item()])
    assert book.counts["accepted"] == 0


async def test_with_a_spool_rewards_are_taken_and_queue_up(
    book: RewardIngest, store: Away, tmp_path: Path
) -> None:
    book.spool = Spool(tmp_path / "spool", store)
    same = sealed()
    store.away = True
    assert (await book.take([item(id=same, value=True)])).accepted == 1
    store.away = False
    # What waits comes first: a correction must not overtake what it corrects.
    assert (await book.take([item(id=same, value=False)])).accepted == 1
    assert await store.reward_sums("digits") == {}
    assert await book.spool.replay() == 2
    assert await store.reward_sums("digits") == {("v1", "correct"): RewardSums(1, 0.0, 0.0)}
    assert (await book.take([item(id=same, value=False)])).duplicates == 1
    await book.spool.close()


async def test_the_values_of_a_unit_are_one_observation(store: Away) -> None:
    when: list[tuple[str, int, float, str]] = []

    def period(route: str, epoch: int, decided: float, metric: str) -> str:
        when.append((route, epoch, decided, metric))
        return "all"

    book = RewardIngest(store, SEALER, metrics=METRICS, clock=lambda: NOW, period=period)
    await book.take([item(value=v, id=sealed(unit=99)) for v in (True, False)] + [item(value=True)])
    own = {"correct", "correct|sticky", "correct|units"}
    assert {key: sums for key, sums in (await store.reward_sums("digits")).items() if key[1] in own} == {
        ("v1", "correct"): RewardSums(1, 1.0, 1.0),
        ("v1", "correct|sticky"): RewardSums(2, 1.0, 1.0),
        ("v1", "correct|units"): RewardSums(1, 0.5, 0.25),
    }
    assert when == [("digits", 3, NOW - 10.0, "correct")] * 2


def test_a_value_that_the_route_does_not_take_was_not_reported_in_vain(store: Away) -> None:
    book = RewardIngest(store, SEALER, metrics=METRICS, allowed=lambda route, name: name == "amount")
    seen = outcome(route="digits")
    assert book.observed(seen, "clicks", 3.0, b"") is None
    assert (book.counts, book.rejections) == ({}, {}), "an alarm would blame clients"
    assert (taken := book.observed(seen, "amount", 3.0, b"")) is not None
    assert taken.value == 3.0
