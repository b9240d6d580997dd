"""`Store` on Redis, for replicas on many machines.

All keys of a route share a hash tag, so each step that must be atomic is one Lua script on one node.
How durable an acknowledged reward is, Redis decides: with ``appendonly yes`` and ``appendfsync always``
it is on the disk, with ``everysec`` a crash of its machine may lose a second. `open` says so when it is
less than that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.clock import Clock, wall
from gateway.record.events import Outcome, Reward, Shadowed
from gateway.record.sightings import Sighting
from gateway.state.base import (
    Bucket,
    Counts,
    DecisionRecord,
    Event,
    OutcomeFilter,
    Published,
    Retention,
    Revision,
    RewardResult,
    StoreUnavailable,
)
from gateway.state.redis import control, linear, record, rewards, sums, upkeep
from gateway.state.redis.link import Link
from policies.linear import LinearSums
from policies.model import RewardSums

log = logging.getLogger("turnout.store")

_SHARES_KEPT: Final = 4096
_ROUTE_OF_OUTCOME: Final = Outcome._fields.index("route")
_EPOCH: Final = Outcome._fields.index("epoch")
_ROUTE_OF_SHADOWED: Final = Shadowed._fields.index("route")
_EARLY: Final = 600.0
"""Seconds by which a replica's clock may be behind when it decides by an allocation just published."""


class RedisStore:
    """See `gateway.state.base.Store`, and `Link` for the address."""

    def __init__(self, url: str, *, clock: Clock = wall) -> None:
        self._link = Link(url)
        self._clock = clock
        self._known_routes: set[str] = set()
        self._shares: dict[tuple[str, int], Mapping[str, float]] = {}

    async def open(self) -> None:
        """Raises StoreUnavailable; warns (log and event) when what is acknowledged may be lost."""
        try:
            await self._link.command("GET", f"{self._link.of_all}:changed")
            doubt = await self._doubt()
        except BaseException:
            await self._link.close()
            raise
        if doubt:
            log.warning("%s", doubt)
            data = json.dumps({"code": "store_not_durable", "message": doubt})
            await self.add_event(time=self._clock(), kind="alarm", route="", data=data)

    async def _doubt(self) -> str:
        """What is to be said against the durability of this Redis; "" for nothing, or when it won't tell."""
        try:
            settings = await self._link.settings("append*")
        except StoreUnavailable:
            return ""  # managed services refuse CONFIG
        if settings.get("appendonly") == "no":
            return (
                f"The store {self._link.shown} runs with 'appendonly no': a restart loses acknowledged rewards. "
                "Set 'appendonly yes' and 'appendfsync always'."
            )
        if settings.get("appendfsync") == "no":
            return (
                f"The store {self._link.shown} runs with 'appendfsync no': a crash of its machine loses "
                "acknowledged rewards. Set 'appendfsync always', or 'everysec' if a second may be lost."
            )
        return ""

    async def close(self) -> None:
        await self._link.close()

    async def secret(self, name: str) -> bytes:
        return await control.secret(self._link, name)

    # Routes -------------------------------------------------------------------------------------
    async def _know(self, route: str) -> None:
        """Lists the route before its first key is written, so that no key is ever out of sight."""
        if route not in self._known_routes:
            await self._link.command("SADD", f"{self._link.of_all}:routes", route)
            self._known_routes.add(route)

    async def _routes(self) -> list[str]:
        found = await self._link.command("SMEMBERS", f"{self._link.of_all}:routes")
        return sorted(route.decode() for route in found)

    # The record ---------------------------------------------------------------------------------
    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Each page of each route is one transaction, with the aggregates it adds to."""
        for route, rows in record.by_route(outcomes, _ROUTE_OF_OUTCOME).items():
            await self._know(route)
            await self._learn_shares(route, {row[_EPOCH] for row in rows})
            await record.append(self._link, route, rows, self._published_shares)
        for route, shadows in record.by_route(shadowed, _ROUTE_OF_SHADOWED).items():
            await self._know(route)
            await record.add_shadowed(self._link, route, shadows)

    async def _learn_shares(self, route: str, epochs: set[int]) -> None:
        """An epoch's probabilities never change once published, so they are asked for once."""
        for epoch in epochs:
            if (route, epoch) not in self._shares:
                found = await control.of_epoch(self._link, route, epoch)
                if found is not None:
                    if len(self._shares) >= _SHARES_KEPT:
                        self._shares.clear()
                    self._shares[route, epoch] = found.probabilities

    def _published_shares(self, route: str, epoch: int) -> Mapping[str, float] | None:
        return self._shares.get((route, epoch))

    async def reward(self, rewards_: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        """Atomic for runs of up to 500 rewards of one route, not for the whole call."""
        places: dict[str, list[int]] = {}
        for place, one in enumerate(rewards_):
            places.setdefault(one.route, []).append(place)
        results: list[RewardResult] = ["accepted"] * len(rewards_)
        for route, mine in places.items():
            await self._know(route)
            found = await rewards.upsert(
                self._link, route, [rewards_[place] for place in mine], replay=replay
            )
            for place, result in zip(mine, found, strict=True):
                results[place] = result
        return results

    async def outcomes(self, query: OutcomeFilter) -> list[Outcome]:
        routes = await self._routes() if query.route is None else [query.route]
        return await record.newest_first(self._link, routes, query)

    async def decision(self, decision: bytes) -> DecisionRecord:
        """Asks every route: the sixteen bytes do not say which one decided."""
        outcome: Outcome | None = None
        reports: tuple[Reward, ...] = ()
        shadows: tuple[Shadowed, ...] = ()
        for route in await self._routes():
            outcome = outcome or await record.find(self._link, route, decision)
            reports = reports or await rewards.rewards_of(self._link, route, decision)
            shadows = shadows or await rewards.shadows_of(self._link, route, decision)
        return DecisionRecord(outcome, reports, shadows)

    async def records(
        self,
        *,
        route: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: bytes | None = None,
        limit: int = 1000,
    ) -> list[DecisionRecord]:
        routes = await self._routes() if route is None else [route]
        query = OutcomeFilter(since=since, until=until, limit=limit)
        found = await record.oldest_first(self._link, routes, query, after or b"")
        return await rewards.with_what_belongs(self._link, found)

    async def sightings(self, route: str, *, since: float, until: float, below: int) -> list[Sighting]:
        return await record.sightings_of(self._link, route, since, until, below)

    async def metric_names(self) -> list[str]:
        return await sums.metric_names(self._link, await self._routes())

    async def prune(self, retention: Retention, *, now: float) -> bool:
        return await upkeep.step(self._link, await self._routes(), retention, now)

    # Aggregates ---------------------------------------------------------------------------------
    async def counts(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, Counts]:
        return await sums.counts(self._link, route, await self._since(route, since, epoch), until, epoch)

    async def decided(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, tuple[int, int]]:
        return await sums.decided(self._link, route, await self._since(route, since, epoch), until, epoch)

    async def reward_sums(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[tuple[str, str], RewardSums]:
        return await sums.reward_sums(self._link, route, await self._since(route, since, epoch), until, epoch)

    async def _since(self, route: str, since: float | None, epoch: int | None) -> float | None:
        """Nothing was decided in an epoch before it was published: that spares reading older buckets."""
        if epoch is None:
            return since
        found = await control.of_epoch(self._link, route, epoch)
        if found is None:
            return since
        return max(found.time - _EARLY, since if since is not None else 0.0)

    async def linear_sums(self, route: str, fingerprint: str) -> dict[tuple[str, str], LinearSums]:
        return await linear.totals(self._link, route, fingerprint)

    async def linear_series(
        self, route: str, fingerprint: str, *, since: float
    ) -> list[tuple[float, dict[tuple[str, str], LinearSums]]]:
        return await linear.series(self._link, route, fingerprint, since)

    async def series(self, route: str, *, since: float, until: float, step: float) -> list[Bucket]:
        return await sums.series(self._link, route, since, until, step)

    async def agreement(self, route: str, *, since: float | None = None) -> dict[str, tuple[int, int, int]]:
        return await sums.agreement(self._link, route, since)

    async def changed(self) -> int:
        return await control.changed(self._link, await self._routes())

    # Control ------------------------------------------------------------------------------------
    async def publish(self, allocation: Published, ensemble: bytes = b"") -> bool:
        await self._know(allocation.route)
        return await control.publish(self._link, allocation, ensemble)

    async def ensemble(self, route: str, epoch: int) -> bytes | None:
        return await control.ensemble(self._link, route, epoch)

    async def published(self) -> dict[str, Published]:
        return await control.published(self._link, await self._routes())

    async def allocation_history(self, route: str, *, limit: int = 1000) -> list[Published]:
        return await control.history(self._link, route, limit)

    async def load(self, kind: str, name: str) -> tuple[int, str] | None:
        return await control.load(self._link, kind, name)

    async def save(self, kind: str, name: str, text: str, *, expected: int) -> bool:
        return await control.save(self._link, kind, name, text, expected)

    async def add_revision(self, *, time: float, author: str, etag: str, document: str) -> Revision:
        return await control.add_revision(self._link, time, author, etag, document)

    async def revisions(self, *, limit: int = 100) -> list[Revision]:
        return await control.revisions(self._link, limit)

    async def add_event(self, *, time: float, kind: str, route: str, data: str) -> Event:
        return await control.add_event(self._link, time, kind, route, data)

    async def events(self, *, after: int = 0, limit: int = 1000, route: str | None = None) -> list[Event]:
        return await control.events(self._link, after, limit, route)

    async def lease(self, name: str, owner: str, *, ttl: float, now: float) -> int | None:
        return await control.lease(self._link, name, owner, ttl, now)

    async def release(self, name: str, owner: str) -> None:
        await control.release(self._link, name, owner)
