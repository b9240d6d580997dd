"""What the control plane keeps."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from gateway.state.base import Retention
from gateway.state.store import Store
from policies.types import RewardSums
from tests.support.made import T0, outcome, published, reward

DAY = 86_400.0


async def test_a_secret_is_made_once(store: Store) -> None:
    many = await asyncio.gather(*(store.secrets("decision-id") for _ in range(5)))
    assert len(set(many)) == 1
    assert [len(secret) for secret in many[0]] == [32]
    assert await store.secrets("other") != many[0]


async def test_allocations_follow_one_another(store: Store) -> None:
    assert await store.published() == {}
    first = published(7)
    assert await store.publish(first)
    assert not await store.publish(first)
    assert not await store.publish(published(9))
    second = published(8, probabilities={"v1": 0.1, "v2": 0.9}, bounds=(0.1, 1.0))
    assert await store.publish(second)
    other = published(1, route="b")
    assert await store.publish(other)
    assert await store.published() == {"b": other, "digits": second}
    assert await store.allocation_history("digits") == [first, second]
    assert await store.allocation_history("digits", limit=1) == [second]
    assert await store.allocation_history("other") == []
    assert await store.allocation("digits", 7) == first
    assert await store.allocation("digits", 6) is None
    assert await store.allocation("other", 7) is None


async def test_only_the_newest_allocations_of_each_route_are_kept(store: Store) -> None:
    for epoch in range(1, 13):
        await store.publish(published(epoch, time=T0 + epoch))
    other = published(1, route="b", time=T0)
    await store.publish(other)
    await pruned(store, Retention(allocations_per_route=5), T0 + 20)
    assert [one.epoch for one in await store.allocation_history("digits")] == [8, 9, 10, 11, 12]
    assert await store.allocation_history("b") == [other]
    await pruned(store, Retention(allocations=1.0), T0 + 20)
    assert [one.epoch for one in await store.allocation_history("digits")] == [12]
    assert await store.allocation_history("b") == [other]


async def test_of_two_leaders_only_one_publishes(store: Store) -> None:
    await store.publish(published(1))
    results = await asyncio.gather(*(store.publish(published(2, reason=str(k))) for k in range(8)))
    assert sorted(results) == [False] * 7 + [True]


async def test_documents_are_compared_and_swapped(store: Store) -> None:
    assert await store.load("rollout", "digits") is None
    assert not await store.save("rollout", "digits", "x", expected=1)
    assert await store.save("rollout", "digits", '{"a":1}', expected=0)
    assert not await store.save("rollout", "digits", "late", expected=0)
    assert await store.load("rollout", "digits") == (1, '{"a":1}')
    results = await asyncio.gather(*(store.save("rollout", "digits", str(k), expected=1) for k in range(6)))
    assert results.count(True) == 1
    assert await store.load("rollout", "digits") == (2, str(results.index(True)))
    assert await store.load("rollout", "other") is None
    await store.save("rollout", "äpfel", "{}", expected=0)
    assert await store.load_all("rollout", ("digits", "other", "äpfel")) == {
        "digits": (2, str(results.index(True))),
        "äpfel": (1, "{}"),
    }
    assert await store.load_all("rollout", ()) == {}


async def test_a_revision_is_not_added_behind_one_that_was_not_seen(store: Store) -> None:
    one = await store.add_revision(time=T0, author="ops", etag="a", document="x: 1\n", after=0)
    assert one is not None
    assert await store.add_revision(time=T0, author="file", etag="b", document="x: 2\n", after=0) is None
    assert await store.revisions() == [one]
    two = await store.add_revision(time=T0, author="file", etag="b", document="x: 2\n", after=one.revision)
    assert await store.revisions() == [two, one]


async def test_revisions_are_numbered_and_listed_newest_first(store: Store) -> None:
    one = await store.add_revision(time=T0, author="ops", etag="a", document="x: 1\n")
    two = await store.add_revision(time=T0 + 1, author="file", etag="b", document="x: ü\n")
    assert one is not None
    assert two is not None
    assert (one.revision, two.revision) == (1, 2)
    assert await store.revisions() == [two, one]
    assert await store.revisions(limit=1) == [two]
    assert await store.revisions(limit=1, until=1) == [one]
    assert await store.revisions(until=2) == [two, one]
    assert await store.revisions(limit=1, until=0) == []
    entries = await store.revision_entries()
    assert [entry.with_text(text) for entry, text in zip(entries, ("x: ü\n", "x: 1\n"), strict=True)] == [
        two,
        one,
    ]
    assert await store.revision_entries(limit=1) == entries[:1]


async def test_the_texts_of_the_newest_200_revisions_are_kept(store: Store) -> None:
    for n in range(1, 206):
        await store.add_revision(time=T0 + n, author="ops", etag=f"e{n}", document=f"n: {n}\n")
    assert [r.document for r in await store.revisions(limit=1000)] == [f"n: {n}\n" for n in range(205, 5, -1)]
    assert await store.revisions(until=5) == []
    assert [entry.etag for entry in await store.revision_entries()] == [f"e{n}" for n in range(205, 0, -1)]


async def test_old_entries_of_revisions_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gateway.state.sqlite.control", "gateway.state.redis.control"):
        monkeypatch.setattr(f"{module}.MAX_REVISION_TEXTS", 2)
        monkeypatch.setattr(f"{module}.MAX_REVISIONS", 4)
    for n in range(1, 8):
        await store.add_revision(time=T0 + n, author="ops", etag=f"e{n}", document=f"n: {n}\n")
    assert [entry.revision for entry in await store.revision_entries()] == [7, 6, 5, 4]
    assert [revision.revision for revision in await store.revisions()] == [7, 6]


async def test_events_are_read_on_from_an_id(store: Store) -> None:
    made = [
        await store.add_event(time=T0 + i, kind="alarm", route="ab"[i % 2], data=f'{{"n":{i}}}')
        for i in range(5)
    ]
    assert [e.id for e in made] == sorted({e.id for e in made})
    assert await store.events() == made
    assert await store.events(after=made[1].id) == made[2:]
    assert await store.events(after=made[0].id, limit=2) == made[1:3]
    assert await store.events(route="b") == made[1::2]
    assert await store.events(after=made[-1].id) == []


async def test_of_old_events_allocations_are_not_kept(store: Store) -> None:
    kinds = ("rollout", *["allocation"] * 4, "config", *["allocation"] * 6)
    told = [await store.add_event(time=T0, kind=kind, route="a", data="{}") for kind in kinds]
    retention = Retention(events_with_allocations=4)
    await pruned(store, retention, T0 + 1)
    assert await store.events() == [told[0], told[5], *told[-4:]]
    told += [await store.add_event(time=T0, kind="allocation", route="a", data="{}") for _ in range(3)]
    await pruned(store, retention, T0 + 1)
    assert await store.events() == [told[0], told[5], *told[-4:]]


async def test_what_changes_moves_the_change_number(store: Store) -> None:
    seen = [await store.changed()]
    await store.publish(published(1))
    seen.append(await store.changed())
    await store.save("rollout", "digits", "x", expected=0)
    seen.append(await store.changed())
    await store.add_revision(time=T0, author="ops", etag="a", document="")
    seen.append(await store.changed())
    assert len(set(seen)) == 4
    assert not await store.publish(published(9))
    assert not await store.save("rollout", "digits", "x", expected=9)
    await store.lease("leader", "a", ttl=5, now=T0)
    assert await store.changed() == seen[-1]


async def test_a_lease_has_one_holder_and_a_rising_number(store: Store) -> None:
    first = await store.lease("leader", "a", ttl=5, now=T0)
    assert first is not None
    assert await store.lease("leader", "a", ttl=5, now=T0 + 4) == first
    assert await store.lease("leader", "b", ttl=5, now=T0 + 8) is None
    taken = await store.lease("leader", "b", ttl=5, now=T0 + 9)
    assert taken is not None
    assert taken > first
    assert await store.lease("leader", "a", ttl=5, now=T0 + 10) is None
    again = await store.lease("leader", "b", ttl=5, now=T0 + 60)
    assert again is not None
    assert again > taken, "a lapsed lease is a new one"


async def test_a_lease_of_a_clock_that_was_an_hour_ahead_is_free(store: Store) -> None:
    """Its holder was killed before the clock was set; for an hour there would be no leader, and no edit."""
    ahead = await store.lease("leader", "a", ttl=5, now=T0 + 3600)
    taken = await store.lease("leader", "b", ttl=5, now=T0)
    assert ahead is not None
    assert taken is not None
    assert taken > ahead
    assert await store.lease("leader", "a", ttl=5, now=T0 + 1) is None
    assert await store.lease("leader", "c", ttl=5, now=T0 - 300) is None, "clocks of replicas differ a little"


async def test_a_released_lease_is_free_at_once_and_only_its_owner_releases_it(store: Store) -> None:
    first = await store.lease("leader", "a", ttl=50, now=T0)
    await store.release("leader", "b")
    assert await store.lease("leader", "b", ttl=5, now=T0 + 1) is None
    await store.release("leader", "a")
    second = await store.lease("leader", "b", ttl=5, now=T0 + 1)
    assert first is not None
    assert second is not None
    assert second > first
    await store.release("nothing", "a")


async def test_of_many_candidates_one_gets_the_lease(store: Store) -> None:
    results = await asyncio.gather(*(store.lease("leader", f"n{k}", ttl=5, now=T0) for k in range(10)))
    assert sum(r is not None for r in results) == 1


async def pruned(store: Store, retention: Retention, now: float) -> None:
    for _ in range(10_000):
        if not await store.prune(retention, now=now):
            return
    raise AssertionError("pruning never ends")


async def test_pruning_forgets_what_is_too_old_and_nothing_else(store: Store) -> None:
    now = T0 + 100 * DAY
    old, new = outcome(now - 31 * DAY), outcome(now - 29 * DAY)
    await store.append([old, new])
    await store.reward([reward(of=outcome(now - 91 * DAY), metric="gone"), reward(of=old)])
    await store.add_event(time=now - 500 * DAY, kind="alarm", route="", data="{}")
    kept = await store.add_event(time=now, kind="alarm", route="", data="{}")
    await store.publish(published(1, time=now - 200 * DAY))
    await store.publish(published(2, time=now - 190 * DAY))
    before = await store.counts("digits"), await store.reward_sums("digits")
    await pruned(store, Retention(), now)
    assert (await store.decision(old.decision)).outcome is None
    assert (await store.decision(old.decision)).rewards != ()
    assert (await store.decision(new.decision)).outcome == new
    assert await store.events() == [kept]
    assert [a.epoch for a in await store.allocation_history("digits")] == [2]
    assert (await store.counts("digits"), await store.reward_sums("digits")) == before
    await pruned(store, Retention(outcomes=DAY, rewards=DAY, aggregates=DAY), now)
    assert (await store.counts("digits"), await store.reward_sums("digits")) == ({}, {})


async def test_folding_keeps_every_sum_and_every_epoch_that_lasted(store: Store) -> None:
    start = T0 - T0 % DAY
    rows = []
    for second in range(0, 6 * 3600, 60):
        # An hour of epoch 1; then an epoch every two minutes; then the last for good.
        epoch = 1 if second < 3600 else min(1 + (second - 3600) // 120, 90)
        variant = f"v{second % 3}"
        rows.append(
            outcome(start + second, epoch=epoch, total_ms=1.0 + second % 90, assigned=variant, served=variant)
        )
    await store.append(rows)
    reports = [reward(0.1 * (i % 7), of=o) for i, o in enumerate(rows)]
    await store.reward(reports)
    counts, sums = await store.counts("digits"), await store.reward_sums("digits")
    lasting = {
        e: (await store.counts("digits", epoch=e), await store.reward_sums("digits", epoch=e))
        for e in (1, 90)
    }
    await pruned(store, Retention(), start + 3 * DAY)
    folded = await store.counts("digits")
    assert {v: (c.assigned, c.served, c.latency) for v, c in folded.items()} == {
        v: (c.assigned, c.served, c.latency) for v, c in counts.items()
    }
    again = await store.reward_sums("digits")
    assert {k: (s.count, round(s.total, 9)) for k, s in again.items()} == {
        k: (s.count, round(s.total, 9)) for k, s in sums.items()
    }
    for epoch, (old_counts, old_sums) in lasting.items():
        new_counts = await store.counts("digits", epoch=epoch)
        assert {v: c.assigned for v, c in new_counts.items()} == {
            v: c.assigned for v, c in old_counts.items()
        }
        new_sums = await store.reward_sums("digits", epoch=epoch)
        assert {k: s.count for k, s in new_sums.items()} == {k: s.count for k, s in old_sums.items()}
    buckets = await store.series("digits", since=start, until=start + DAY, step=3600)
    assert len({b.start for b in await store.series("digits", since=start, until=start + DAY, step=10)}) == 6
    assert sum(b.counts.assigned for b in buckets) == len(rows)
    # What comes late finds its place, and folds in turn.
    await store.reward([reports[0]._replace(value=9.0)])
    await pruned(store, Retention(), start + 3 * DAY)
    total = sum((s for s in (await store.reward_sums("digits")).values()), RewardSums()).total
    assert round(total, 9) == round(sum(r.value or 0 for r in reports) + 9.0, 9)


@pytest.mark.long
async def test_old_pages_are_merged_and_read_as_before(store: Store) -> None:
    rows = [outcome(T0 + i, route="ab"[i % 2], error="x" if i % 50 == 0 else "") for i in range(400)]
    for k in range(0, 400, 5):
        await store.append(rows[k : k + 5])
    await pruned(store, Retention(), T0 + DAY)
    assert [r.outcome for r in await store.records(limit=1000)] == rows
    assert (await store.decision(rows[37].decision)).outcome == rows[37]
    await store.append(rows[:50])
    assert sum(c.assigned for c in (await store.counts("a")).values()) == 200


@pytest.mark.slow
async def test_a_record_that_is_too_large_loses_its_oldest_part_and_no_sum(store: Store) -> None:
    now = T0 + 40 * DAY
    rows = [outcome(T0 + k * 4 * 3600, features=os.urandom(400).hex()) for k in range(6 * 40)]
    for k in range(0, len(rows), 2):
        await store.append(rows[k : k + 2])
    await store.reward([reward(1.0, of=row, tags='{"note": "some text"}') for row in rows])
    everything = Retention(outcomes=1e12, rewards=1e12)
    await pruned(store, everything, now)
    whole = await store.size()
    sums, counted = await store.reward_sums("digits"), (await store.counts("digits"))["v1"].assigned
    await pruned(store, replace(everything, max_bytes=whole + 1), now)
    assert await store.size() == whole
    await pruned(store, replace(everything, max_bytes=whole * 0.6), now)
    assert await store.size() <= whole * 0.6
    left = [record.outcome for record in await store.records(limit=10_000)]
    assert 0 < len(left) < len(rows)
    assert left == rows[-len(left) :]
    assert (await store.decision(rows[0].decision)).rewards == ()
    # What can't go stays, however small the bound.
    await pruned(store, replace(everything, max_bytes=1, min_rewards=2 * DAY), now)
    assert await store.records(limit=10) == []
    kept = [row for row in rows if (await store.decision(row.decision)).rewards]
    assert rows[-12:] == kept[-12:]
    assert len(kept) < 20
    assert await store.reward_sums("digits") == sums
    assert (await store.counts("digits"))["v1"].assigned == counted
