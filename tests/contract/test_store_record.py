"""The record: what is appended comes back, once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.record import histogram
from gateway.record.events import UNSEEN
from gateway.state.base import OutcomeFilter, Retention
from gateway.state.redis import sums as redis_sums
from gateway.state.store import Store
from policies.sequential.srm import EVERY_UNIT
from tests.support.made import T0, decision, drawn_decision, outcome, published, reward, shadowed


async def test_an_outcome_comes_back_as_it_was(store: Store) -> None:
    plain = outcome()
    odd = outcome(
        T0 + 1,
        unit=2**64 - 1,
        attempts='[["v1","h:1","backend_reset",3.5]]',
        request_id="\x00 ✓ \udcff",
        features='{"a":1}',
        error="backend_reset",
        status=0,
        answer_bytes=1 << 40,
        gateway_ms=0.1,
        fallback=True,
        served="",
        forced=True,
        sticky=False,
    )
    await store.append([plain, odd])
    assert await store.outcomes(OutcomeFilter()) == [odd, plain]
    assert (await store.decision(odd.decision)).outcome == odd
    assert (await store.decision(plain.decision)).outcome == plain


async def test_an_unknown_decision_is_an_empty_record(store: Store) -> None:
    found = await store.decision(os.urandom(16))
    assert (found.outcome, found.rewards, found.shadows) == (None, (), ())


@pytest.mark.parametrize("make", [decision, drawn_decision])
async def test_repeating_a_batch_changes_nothing(store: Store, make: Callable[[float], bytes]) -> None:
    batch = [outcome(T0 + i / 10, decision=make(T0 + i / 10)) for i in range(50)]
    shadows = [shadowed(of=o) for o in batch]
    await store.append(batch, shadows)
    before = await store.counts("digits"), await store.agreement("digits")
    await store.append(batch, shadows)
    await store.append(batch[::-1], shadows[::-1])
    assert (await store.counts("digits"), await store.agreement("digits")) == before
    assert len(await store.outcomes(OutcomeFilter(limit=1000))) == 50


@pytest.mark.parametrize("make", [decision, drawn_decision])
async def test_a_batch_that_overlaps_an_earlier_one_adds_only_what_is_new(
    store: Store, make: Callable[[float], bytes]
) -> None:
    rows = [outcome(T0 + i, decision=make(T0 + i)) for i in range(6)]
    await store.append(rows[:4])
    await store.append([*rows[2:], rows[5], rows[0]])
    assert await store.outcomes(OutcomeFilter()) == rows[::-1]
    assert (await store.counts("digits"))["v1"].assigned == 6


async def test_decisions_that_share_all_but_a_few_bits_are_told_apart(store: Store) -> None:
    ids = [decision(T0, 7), decision(T0 + 0.001, 7), decision(T0 + 500, 7), decision(T0, 7 + 256)]
    for one in ids:
        await store.append([outcome(decision=one)])
    assert {o.decision for o in await store.outcomes(OutcomeFilter())} == set(ids)
    assert (await store.counts("digits"))["v1"].assigned == 4


async def test_decisions_of_other_proxies_that_share_all_but_a_few_bits_are_told_apart(store: Store) -> None:
    first = drawn_decision(T0)
    later = drawn_decision(T0 + 0.001)[:6] + first[6:]
    ids = [first, later, *(flipped(first, bit) for bit in (40, 48, 95, 99, 111, 115, 127))]
    for one in ids:
        await store.append([outcome(decision=one)])
    await store.append([outcome(decision=one) for one in ids])
    assert {o.decision for o in await store.outcomes(OutcomeFilter())} == set(ids)
    assert (await store.counts("digits"))["v1"].assigned == len(ids)


def flipped(decision: bytes, bit: int) -> bytes:
    return (int.from_bytes(decision, "big") ^ 1 << 127 - bit).to_bytes(16, "big")


async def test_any_sixteen_bytes_may_be_a_decision(store: Store) -> None:
    ids = {os.urandom(16) for _ in range(40)} | {b"\x00" * 16, b"\xff" * 16}
    await store.append([outcome(decision=one) for one in ids])
    assert [o.decision for o in await store.outcomes(OutcomeFilter())] == sorted(ids, reverse=True)
    for one in ids:
        assert (await store.decision(one)).outcome is not None


async def test_empty_batches_are_nothing(store: Store) -> None:
    await store.append([])
    assert await store.reward([]) == []
    assert await store.outcomes(OutcomeFilter()) == []


async def test_the_list_is_newest_first_whatever_the_order_of_writing(store: Store) -> None:
    rows = [outcome(T0 + i) for i in range(60)]
    # As slow requests do: each batch reaches back behind the end of those before.
    for k in (3, 0, 5, 1, 4, 2):
        await store.append(rows[k::6])
    assert await store.outcomes(OutcomeFilter(limit=17)) == rows[::-1][:17]
    pages, before = [], None
    while page := await store.outcomes(OutcomeFilter(limit=7, before=before)):
        pages += page
        before = page[-1].decision
    assert pages == rows[::-1]


@pytest.mark.slow
async def test_a_filter_that_few_pass_is_searched_in_bounded_steps(store: Store) -> None:
    """Pages of two routes, interleaved and overlapping, far more than one step reads; what is sought is oldest."""
    rows = [outcome(T0 + i, route="ab"[i // 3 % 2], status=418 if i == 0 else 200) for i in range(450)]
    for k in range(0, 450, 3):
        await store.append(rows[k : k + 6])  # the second half again with the next: it is there already
    found: list[Any] = []
    steps, before = 0, None
    while True:
        step, following = await store.scan(OutcomeFilter(status=418, before=before))
        steps, found = steps + 1, found + step
        if following is None:
            break
        assert before is None or following < before
        before = following
    assert (found, steps > 1) == ([rows[0]], True)
    assert await store.outcomes(OutcomeFilter(status=418)) == [rows[0]]
    assert await store.outcomes(OutcomeFilter(limit=1000)) == rows[::-1]
    assert await store.outcomes(OutcomeFilter(route="a", limit=1000)) == [
        r for r in rows[::-1] if r.route == "a"
    ]


async def test_filters(store: Store) -> None:
    rows = {
        "a": outcome(T0, route="a"),
        "a2": outcome(T0 + 1, route="a", assigned="v2", served="v1", fallback=True, error="backend_reset"),
        "b": outcome(T0 + 2, route="b", status=503, error="backend_overloaded", served=""),
        "c": outcome(T0 + 3, route='we"ird'),
        "d": outcome(
            T0 + 4, route="d", forced=True, total_ms=900.0, unit=1 << 63, request_id="of-ä", principal="other"
        ),
    }
    await store.append(list(rows.values()))

    async def listed(query: OutcomeFilter) -> list[str]:
        return [name for o in await store.outcomes(query) for name, row in rows.items() if row == o]

    assert await listed(OutcomeFilter(route="a")) == ["a2", "a"]
    assert await listed(OutcomeFilter(route='we"ird')) == ["c"]
    assert await listed(OutcomeFilter(route="nobody")) == []
    assert await listed(OutcomeFilter(variant="v2")) == ["a2"]
    assert await listed(OutcomeFilter(variant="v1", route="a")) == ["a2", "a"]
    assert await listed(OutcomeFilter(status=503)) == ["b"]
    assert await listed(OutcomeFilter(errors_only=True)) == ["b", "a2"]
    assert await listed(OutcomeFilter(since=T0 + 1, until=T0 + 3)) == ["b", "a2"]
    assert await listed(OutcomeFilter(error="backend_reset")) == ["a2"]
    assert await listed(OutcomeFilter(error="backend")) == []
    assert await listed(OutcomeFilter(fallback=True)) == ["a2"]
    assert await listed(OutcomeFilter(fallback=False)) == ["d", "c", "b", "a"]
    assert await listed(OutcomeFilter(forced=True)) == ["d"]
    assert await listed(OutcomeFilter(min_ms=900.0)) == ["d"]
    assert await listed(OutcomeFilter(unit=1 << 63)) == ["d"]
    assert await listed(OutcomeFilter(request_id="of-ä")) == ["d"]
    assert await listed(OutcomeFilter(principal="other")) == ["d"]
    assert await listed(OutcomeFilter(before=rows["b"].decision)) == ["a2", "a"]


async def test_the_first_decision_of_each_route_is_found_among_pages_that_overlap(store: Store) -> None:
    for start in (40, 0, 20, 10, 30):
        await store.append([outcome(T0 + start + 9 * k, route="ab"[k % 2]) for k in range(4)])
    await store.append([outcome(T0 + 5, route="rare", forced=True), outcome(T0 + 100, route="b")])
    assert await store.first_times({}) == {}
    assert await store.first_times({"a": 0.0, "b": 0.0, "rare": 0.0, "none": 0.0}) == {
        "a": T0,
        "b": T0 + 9,
        "rare": T0 + 5,
    }
    later = {"a": T0 + 41, "b": T0 + 67.5, "rare": T0 + 5.5}
    assert await store.first_times(later) == {"a": T0 + 48, "b": T0 + 100}


async def test_records_are_read_oldest_first_with_all_that_belongs_to_them(store: Store) -> None:
    rows = [outcome(T0 + i, route="ab"[i % 2]) for i in range(20)]
    for k in (1, 0, 2):
        await store.append(rows[k::3], [shadowed(of=o) for o in rows[k::3]])
    reports = [reward(0.5, of=o) for o in rows[::4]]
    await store.reward(reports)
    found, after = [], None
    while part := await store.records(after=after, limit=3):
        found += part
        assert part[-1].outcome is not None
        after = part[-1].outcome.decision
    assert [r.outcome for r in found] == rows
    assert [r for record in found for r in record.rewards] == reports
    assert [s.decision for record in found for s in record.shadows] == [o.decision for o in rows]
    some = await store.records(route="a", since=T0 + 4, until=T0 + 9)
    assert [r.outcome for r in some] == [rows[4], rows[6], rows[8]]


async def test_a_shadow_comes_back_as_it_was(store: Store) -> None:
    about = outcome()
    good = shadowed(of=about, shadow="s1", difference=0.125, agrees=False, detail='{"at":"$.x"}')
    bad = shadowed(of=about, shadow="s2", status=0, error="backend_connect", agrees=None)
    await store.append([about], [good, bad])
    assert (await store.decision(about.decision)).shadows == (good, bad)
    assert await store.agreement("digits") == {"s1": (1, 1, 0), "s2": (1, 0, 0)}
    assert await store.agreement("digits", since=T0 + 10) == {}


async def test_shadows_over_time(store: Store) -> None:
    for seconds, agrees in ((0, True), (10, False), (25, True), (60, True)):
        about = outcome(T0 + seconds)
        await store.append([about], [shadowed(of=about, shadow="s1", agrees=agrees)])
    found = await store.agreement_series("digits", since=T0, until=T0 + 60, step=20)
    starts = [T0 // 20 * 20, (T0 + 25) // 20 * 20]
    assert found == [(starts[0], "s1", 2, 1), (starts[1], "s1", 1, 1)]


async def test_counts_of_each_kind(store: Store) -> None:
    await store.publish(published(1, probabilities={"v1": 0.25, "v2": 0.75, "v3": 0.0}))
    await store.append(
        [
            outcome(assigned="v1", total_ms=10.0),
            outcome(assigned="v1", error="backend_reset", served="v2", fallback=True, total_ms=20.0),
            outcome(assigned="v2", served="v2", status=499, error="client_left"),
            outcome(assigned="v2", served="", status=502, error="backend_connect"),
            outcome(assigned="v2", served="v2", forced=True, propensity=1.0),
        ]
    )
    found = await store.counts("digits")
    assert list(found) == ["v1", "v2", "v3"]
    one, two, three = found.values()
    assert (one.assigned, one.served, one.errors, one.fallbacks) == (2, 1, 1, 1)
    assert (two.assigned, two.served, two.errors, two.fallbacks) == (2, 2, 1, 0)
    assert (one.expected, two.expected, three.expected) == (1.0, 3.0, 0.0)
    assert one.latency == {histogram.index(10.0): 1}
    assert two.latency == {histogram.index(20.0): 1, histogram.index(3.75): 1}
    assert two.gateway == {histogram.index(0.25): 2}
    assert await store.counts("nobody") == {}


async def test_decisions_without_a_response_count_as_assignments_alone(store: Store) -> None:
    rows = [outcome(T0 + k, served="", status=0, total_ms=9000.0) for k in range(3)]
    await store.append([*rows, outcome(T0 + 4), outcome(T0 + 5, error="backend_read", status=502, served="")])
    found = (await store.counts("digits"))["v1"]
    assert (found.assigned, found.unseen, found.seen, found.served, found.errors) == (5, 3, 2, 1, 1)
    assert sum(found.latency.values()) == sum(found.gateway.values()) == 1
    assert found.expected == 5 * 0.5
    assert await store.decided("digits") == {"v1": (5, 2, 1)}
    seen = await store.exposures("digits", since=T0, until=T0 + 10, below=EVERY_UNIT)
    assert [one.seen for one in seen] == [False, False, False, True, True]
    while await store.prune(Retention(), now=T0 + 3 * 86_400):
        pass
    assert (await store.counts("digits"))["v1"] == found
    assert await store.decided("digits") == {"v1": (5, 2, 1)}


async def test_client_errors_are_sums_of_a_metric_that_no_client_reports(store: Store) -> None:
    await store.append(
        [
            outcome(T0, status=404),
            outcome(T0 + 1),
            outcome(T0 + 2, status=502, error="backend_connect", served=""),
            outcome(T0 + 3, status=404, served="v2", error="backend_status", fallback=True),
            outcome(T0 + 4, status=499, error="client_left"),
            outcome(T0 + 5, status=0, served=""),
            outcome(T0 + 30, status=422, assigned="v2", served="v2"),
        ]
    )
    await store.append([outcome(T0 + 31, status=200, assigned="v2", served="v2")])
    wanted = {("v1", "client_error_rate"): (5, 1, 1), ("v2", "client_error_rate"): (2, 1, 1)}

    async def found(**limits: float) -> dict[tuple[str, str], tuple[float, float, float]]:
        sums = await store.reward_sums("digits", **limits)  # type: ignore[arg-type]
        return {key: (s.count, s.total, s.squares) for key, s in sums.items()}

    assert await found() == wanted
    assert await found(since=T0 + 20) == {("v2", "client_error_rate"): (2, 1, 1)}
    assert await store.metric_names() == []
    while await store.prune(Retention(), now=T0 + 3 * 86_400):
        pass
    assert await found() == await found(since=T0 - 86_400) == wanted


async def test_without_a_published_allocation_the_recorded_propensities_stand_in(store: Store) -> None:
    batch = [outcome(assigned="v1", propensity=0.75)] * 1 + [outcome(assigned="v2", propensity=0.25)]
    await store.append(batch)
    found = await store.counts("digits")
    assert (found["v1"].expected, found["v2"].expected) == (1.5, 0.5)


async def test_counts_by_time_and_epoch_are_sums_of_whole_buckets(store: Store) -> None:
    await store.append([outcome(T0 + 5 * i, epoch=1 + i // 4) for i in range(8)])

    async def assigned(**limits: Any) -> int:
        found = await store.counts("digits", **limits)
        return sum(c.assigned for c in found.values())

    assert await assigned() == 8
    assert await assigned(since=T0 + 10) == 6
    assert await assigned(since=T0 + 19.9) == 6
    assert await assigned(until=T0 + 10) == 2
    assert await assigned(until=T0 + 10.1) == 4
    assert await assigned(epoch=2) == 4
    assert await assigned(epoch=2, since=T0 + 30) == 2
    assert await assigned(epoch=9) == 0


async def test_the_series_adds_up_to_the_counts(store: Store) -> None:
    rows = [outcome(T0 + i, epoch=1 + i // 30, assigned=f"v{i % 2}", served=f"v{i % 2}") for i in range(90)]
    await store.append(rows)
    await store.reward([reward(float(i % 3), of=o) for i, o in enumerate(rows)])
    buckets = await store.series("digits", since=T0, until=T0 + 90, step=20)
    assert [b.start for b in buckets] == sorted(b.start for b in buckets)
    assert {b.start % 20 for b in buckets} == {0.0}
    assert sum(b.counts.assigned for b in buckets) == 90
    assert sum(b.rewards["correct"].count for b in buckets) == 90
    assert sum(b.rewards["correct"].total for b in buckets) == 90
    only = [b for b in buckets if b.epoch == 2 and b.variant == "v1"]
    assert sum(b.counts.assigned for b in only) == 15
    part = await store.series("digits", since=T0 + 40, until=T0 + 60, step=10)
    assert sum(b.counts.served for b in part) == 20
    merged = await store.series("digits", since=T0, until=T0 + 90, step=20, epochs="together")
    assert [(b.start - T0, b.variant, b.epoch) for b in merged] == [
        (start, variant, epoch)
        for start, epoch in ((0, 1), (20, 2), (40, 2), (60, 3), (80, 3))
        for variant in ("v0", "v1")
    ]
    assert (
        [b.counts.assigned for b in merged]
        == [b.rewards["correct"].count for b in merged]
        == [10] * 8 + [5] * 2
    )
    assert merged[2].counts.latency == dict.fromkeys(buckets[0].counts.latency, 10)


@pytest.mark.parametrize("epochs", [True, False])
async def test_a_series_without_histograms_has_the_same_figures(
    store: Store, epochs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sums, "_BUCKETS_PER_CALL", 4)
    rows = [
        outcome(T0 + i, epoch=1 + i // 30, assigned=f"v{i % 2}", status=UNSEEN if i % 7 == 0 else 200)
        for i in range(90)
    ]
    await store.append(rows)
    await store.reward([reward(float(i % 3), of=o) for i, o in enumerate(rows)])
    limits: dict[str, Any] = {"since": T0, "until": T0 + 90, "step": 20, "epochs": epochs}
    whole = await store.series("digits", **limits)
    assert any(b.counts.unseen for b in whole)
    assert any(b.counts.latency for b in whole)
    bare = [replace(b, counts=replace(b.counts, latency={}, gateway={})) for b in whole]
    assert await store.series("digits", **limits, histograms=False) == bare


async def test_the_order_of_batches_does_not_matter_to_the_sums(store: Store) -> None:
    rows = [outcome(T0 + i % 40, total_ms=1.0 + i, served="v1" if i % 3 else "v2") for i in range(200)]
    await asyncio.gather(*(store.append(rows[k::8]) for k in range(8)))
    found = await store.counts("digits")
    assert found["v1"].assigned == 200
    assert sum(found["v1"].latency.values()) == found["v1"].served
    assert sum(found["v2"].latency.values()) == found["v2"].served == 67


@pytest.mark.parametrize("number", [1, 3000])
async def test_batches_of_any_size(store: Store, number: int) -> None:
    rows = [outcome(T0 + i / 100, total_ms=0.5 * (i + 1)) for i in range(number)]
    await store.append(rows)
    assert await store.outcomes(OutcomeFilter(limit=5000)) == rows[::-1]


async def test_decided_is_what_counts_say_of_assignments_and_errors(store: Store) -> None:
    rows = [
        outcome(T0 + 7 * k, assigned=f"v{k % 2}", epoch=1 + k // 30, error="timeout" if k % 5 == 0 else "")
        for k in range(60)
    ]
    await store.append(rows)
    for limits in (
        {},
        {"until": T0 + 100},
        {"until": T0},
        {"since": T0 + 50, "until": T0 + 300},
        {"epoch": 2},
        {"epoch": 1, "until": T0 + 100},
    ):
        full = await store.counts("digits", **limits)
        wanted = {name: (c.assigned, c.seen, c.errors) for name, c in full.items() if c.assigned}
        assert await store.decided("digits", **limits) == wanted


async def test_disagreements_of_a_shadow_newest_first(store: Store) -> None:
    batch = [outcome(T0 + n * 600.0) for n in range(20)]
    shadows = [
        shadowed(of=o, shadow=name, agrees=(None, True, False)[n % 3], difference=0.1 * n)
        for n, o in enumerate(batch)
        for name in ("v3", "v2")
    ]
    await store.append(batch, shadows)
    differing = [o.decision for n, o in enumerate(batch) if n % 3 == 2][::-1]
    found = await store.shadow_responses("digits", "v3", since=T0 - 1, disagreeing=True)
    assert [one.decision for one in found] == differing
    assert {(one.shadow, one.agrees) for one in found} == {("v3", False)}
    assert found == [s for d in differing for s in shadows if (s.decision, s.shadow) == (d, "v3")]
    late = await store.shadow_responses("digits", "v3", since=T0 + 6000.0, disagreeing=True)
    assert [one.decision for one in late] == [d for d in differing if d >= batch[10].decision]
    assert len(await store.shadow_responses("digits", "v3", since=T0 - 1, limit=2, disagreeing=True)) == 2
    assert await store.shadow_responses("shop", "v3", since=T0 - 1, disagreeing=True) == []
    everything = [s for s in shadows if s.shadow == "v3"][::-1]
    assert await store.shadow_responses("digits", "v3", since=T0 - 1) == everything
    assert await store.shadow_responses("digits", "v3", since=T0 - 1, limit=5) == everything[:5]


async def test_old_aggregates_keep_epochs_apart_whose_shares_are(store: Store) -> None:
    """Or a bandit's variants were compared by the mean share of an hour in which it moved from 50 to 10 %."""
    minute = T0 // 60 * 60 + 60
    times = {1: -30, 2: 15, 3: 25, 4: 35, 5: 45, 6: 90}
    shares = {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.48, 5: 0.11, 6: 0.1}
    rows = [
        outcome(minute + at, epoch=epoch, assigned=v, served=v, propensity=p)
        for epoch, at in times.items()
        for v, p in (("v1", shares[epoch]), ("v2", 1 - shares[epoch]))
        for _ in range(5)
    ]
    await store.append(rows)
    late = [row for row in rows if row.epoch == 2]  # by then it is counted under 4
    await store.reward([reward(1.0, of=row) for row in rows if row not in late])
    for rewards in ([], [reward(1.0, of=row) for row in late]):
        await store.reward(rewards)
        while await store.prune(Retention(), now=minute + 3 * 3600):
            pass
    buckets = await store.series("digits", since=minute, until=minute + 60, step=60)
    found = {(b.epoch, b.variant): b for b in buckets}
    assert found.keys() == {(4, "v1"), (4, "v2"), (5, "v1"), (5, "v2")}
    assert found[4, "v1"].counts.expected == pytest.approx(20 * 0.49)
    assert found[5, "v1"].counts.expected == pytest.approx(20 * 0.105)
    assert {b.rewards["correct"].count for b in buckets} == {10}
