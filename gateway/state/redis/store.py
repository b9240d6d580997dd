"""`Store` on Redis, for replicas on many machines.

All keys of a route share a hash tag, so each step that must be atomic is one Lua script on one node.
How durable an acknowledged reward is, Redis decides: with ``appendonly yes`` and ``appendfsync always``
it is on the disk, with ``everysec`` a crash of its machine may lose a second. `open` says so when it is
less than that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from gateway.clock import Clock, wall
from gateway.record.events import Outcome, Reward, Shadowed, columns
from gateway.record.page import DamagedPage
from gateway.record.request_ids import RequestKey
from gateway.state import damage
from gateway.state.base import (
    MAX_CLOCK_SKEW_S,
    Counts,
    DecisionRecord,
    OutcomeFilter,
    Published,
    Retention,
    RewardResult,
    StoreUnavailable,
)
from gateway.state.paging import every_step
from gateway.state.redis import linear, mending, pages, record, request_ids, rewards, sums, upkeep
from gateway.state.redis.check import doubts
from gateway.state.redis.control import Control
from gateway.state.redis.link import Link
from gateway.state.redis.rates import RedisRates
from policies.types import RewardSums

log = logging.getLogger("turnout.store")

P = ParamSpec("P")
T = TypeVar("T")

_MAX_SHARES: Final = 4096
_VERSION_BITS: Final = 64
_MAX_LOSSES: Final = 5
"""Losses that one alarm names."""
_TOO_SHORT: Final = "data string too short"
"""What Lua says of a cell that lacks bytes."""
_ROUTE_OF_OUTCOME: Final = Outcome._fields.index("route")
_ROUTE_OF_SHADOWED: Final = Shadowed._fields.index("route")
_LOST: Final = (
    "The store {} has lost data that it had acknowledged: it was emptied, restarted without its files, restored from a "
    "backup, failed over to a replica that lagged, evicted keys, or holds damaged values. The newest configuration, "
    "allocations and rollout states are written back from memory; rewards and outcomes that it lost are gone."
)


def _asks(
    query: Callable[Concatenate[Link, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[RedisStore, P], Coroutine[Any, Any, T]]:
    """The method of the store that runs ``query`` on its link."""

    @wraps(query)
    async def method(store: RedisStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._around_damage(lambda: query(store._link, *args, **kwargs))

    return method


def _of_cells(
    query: Callable[Concatenate[Link, str, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[RedisStore, str, P], Coroutine[Any, Any, T]]:
    """The method of the store that runs ``query`` on the cells of a route."""

    @wraps(query)
    async def method(store: RedisStore, route: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._around_damage(lambda: query(store._link, route, *args, **kwargs), (route,))

    return method


class RedisStore(Control):
    """A `gateway.state.store.Store` on Redis; `Link` describes the address."""

    def __init__(self, url: str, *, clock: Clock = wall) -> None:
        super().__init__(Link(url))
        self.address = f"{self._link.shown}?prefix={self._link.prefix}"
        self.rates = RedisRates(self._link)
        self._clock = clock
        self._known_routes: set[str] = set()
        self._shares: dict[tuple[str, int], Mapping[str, float]] = {}
        self._due: list[str] | None = None
        """Routes that the last step of an unfinished upkeep has left."""

    async def open(self) -> None:
        """Raises StoreUnavailable; warns (log and event) when what is acknowledged may be lost."""
        try:
            await self._link.command("GET", f"{self._link.of_all}:changed")
            found = await doubts(self._link)
        except BaseException:
            await self._link.close()
            raise
        for code, message in found:
            if code:
                await self._alarm(code, message)
            else:
                log.warning("%s", message)

    async def _alarm(self, code: str, message: str) -> None:
        log.warning("%s", message)
        data = json.dumps({"code": code, "message": message})
        await self.add_event(time=self._clock(), kind="alarm", route="", data=data)

    async def close(self) -> None:
        await self._link.close()

    # Routes -------------------------------------------------------------------------------------
    async def _know(self, route: str) -> None:
        """Lists the route before its first key is written, so that no key is ever out of sight."""
        if route not in self._known_routes:
            await self._link.command("SADD", f"{self._link.of_all}:routes", route)
            self._known_routes.add(route)

    async def _routes(self) -> list[str]:
        key = f"{self._link.of_all}:routes"
        found = {route.decode() for route in await self._link.command("SMEMBERS", key)}
        lost = (self._known_routes | self.memory.known_published.keys()) - found
        if lost:
            await self._link.command("SADD", key, *lost)
        return sorted(found | lost)

    # The record ---------------------------------------------------------------------------------
    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Each page of each route is one transaction, with the aggregates it adds to."""
        for route, rows in record.by_route(outcomes, _ROUTE_OF_OUTCOME).items():
            await self._know(route)
            await self._learn_shares(route, set(columns(rows).epoch))
            add = partial(record.append, self._link, route, rows, self._published_shares)
            await self._around_damage(add, (route,))
        for route, shadows in record.by_route(shadowed, _ROUTE_OF_SHADOWED).items():
            await self._know(route)
            await record.add_shadowed(self._link, route, shadows)

    async def index_requests(self, rows: Sequence[RequestKey], *, now: float, keep: float) -> None:
        for route, keys in record.by_route(rows, 0).items():
            await request_ids.index(self._link, route, keys, keep)

    async def _learn_shares(self, route: str, epochs: set[int]) -> None:
        """An epoch's probabilities never change once published, so they are asked for once."""
        for epoch in epochs:
            if (route, epoch) not in self._shares:
                found = await self.allocation(route, epoch)
                if found is not None:
                    if len(self._shares) >= _MAX_SHARES:
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
            given = [rewards_[place] for place in mine]
            add = partial(rewards.upsert, self._link, route, given, replay=replay)
            found, replacing = await self._around_damage(add, (route,))
            if replacing:
                await damage.note_rewards(self, route, replacing)
            for place, result in zip(mine, found, strict=True):
                results[place] = result
        return results

    async def outcomes(self, query: OutcomeFilter) -> list[Outcome]:
        return await every_step(self.scan, query)

    async def scan(self, query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
        routes = await self._routes() if query.route is None else [query.route]
        return await self._around_damage(lambda: record.scan(self._link, routes, query))

    async def decision(self, decision: bytes, route: str | None = None) -> DecisionRecord:
        """Without ``route`` it asks every one: the sixteen bytes do not say which one decided."""
        outcome: Outcome | None = None
        reports: tuple[Reward, ...] = ()
        shadows: tuple[Shadowed, ...] = ()
        for name in [route] if route is not None else await self._of_the_time(decision):
            find = partial(record.find, self._link, name, decision)
            outcome = outcome or await self._around_damage(find)
            reports = reports or await rewards.rewards_of(self._link, name, decision)
            shadows = shadows or await rewards.shadows_of(self._link, name, decision)
            if outcome is not None:
                break
        return DecisionRecord(outcome, reports, shadows)

    async def _of_the_time(self, decision: bytes) -> list[str]:
        """The routes that have anything of the time of a decision."""
        routes = await self._routes()
        asked = [ask for route in routes for ask in rewards.about(self._link, route, decision)]
        found = await self._link.commands(asked)
        each = len(asked) // max(len(routes), 1)
        return [route for place, route in enumerate(routes) if any(found[place * each : (place + 1) * each])]

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
        read = partial(record.oldest_first, self._link, routes, query, after or b"")
        found = await self._around_damage(read)
        return await rewards.with_what_belongs(self._link, found)

    async def first_times(self, since: Mapping[str, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for route, start in since.items():
            query = OutcomeFilter(since=start, limit=1)
            read = partial(record.oldest_first, self._link, [route], query, b"")
            outcomes = await self._around_damage(read)
            found.update((route, outcome.time) for outcome in outcomes)
        return found

    find_requests = _asks(request_ids.find)
    exposures = _asks(record.exposures_of)
    page_numbers = _asks(record.page_numbers)
    page_exposures = _asks(record.page_exposures)
    shadow_responses = _asks(rewards.shadow_responses)

    async def metric_names(self) -> list[str]:
        routes = await self._routes()
        return await self._around_damage(lambda: sums.metric_names(self._link, routes), routes)

    async def size(self) -> int:
        return await upkeep.size(self._link, await self._routes())

    async def prune(self, retention: Retention, *, now: float) -> bool:
        step = partial(upkeep.step, self._link, await self._routes(), self._due, retention, now)
        more, self._due = await self._around_damage(step, ())
        return more

    async def _around_damage(
        self, run: Callable[[], Coroutine[Any, Any, T]], routes: Collection[str] | None = None
    ) -> T:
        """``routes``: those whose cells it reads; empty: any."""

        async def read() -> T:
            if routes is None:
                return await run()
            with damage.cells_of(routes):
                try:
                    return await run()
                except StoreUnavailable as error:
                    if _TOO_SHORT in str(error.__cause__):
                        raise damage.DamagedCells(routes) from error
                    raise

        return await damage.around(read, self._set_aside, self._mend)

    async def _mend(self, routes: Collection[str]) -> bool:
        """Whether something was damaged."""
        repaired = False
        for route in routes or await self._routes():
            mended = await mending.mend(self._link, route)
            if mended.repaired:
                repaired = True
                await damage.note_cells(self, route, mended)
        return repaired

    async def _set_aside(self, page: DamagedPage) -> None:
        route, number = cast("tuple[str, bytes]", page.place)
        last = await pages.set_aside(self._link, route, number)
        if last is not None:
            await damage.note(self, route, page, last)

    # Aggregates ---------------------------------------------------------------------------------
    async def counts(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, Counts]:
        start = await self._since(route, since, epoch)
        return await self._around_damage(
            lambda: sums.counts(self._link, route, start, until, epoch), (route,)
        )

    async def decided(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, tuple[int, int, int]]:
        start = await self._since(route, since, epoch)
        return await self._around_damage(
            lambda: sums.decided(self._link, route, start, until, epoch), (route,)
        )

    async def reward_sums(
        self,
        route: str,
        *,
        since: float | None = None,
        until: float | None = None,
        epoch: int | None = None,
        segments: bool = False,
    ) -> dict[tuple[str, str], RewardSums]:
        start = await self._since(route, since, epoch)
        return await self._around_damage(
            lambda: sums.reward_sums(self._link, route, start, until, epoch, segments), (route,)
        )

    async def rewards_version(self, route: str) -> int:
        base = self._link.of_route(route)
        return await self._number(base, "changed", await self._link.command("GET", f"{base}:changed"))

    async def changed_cells(self, route: str, *, since: int) -> tuple[int, list[int] | None]:
        """A version of before a break of the connection is not known any more: the server may be a replica now that
        lagged, whose buckets have other contents under the same numbers."""
        life = self._link.breaks << _VERSION_BITS
        find = partial(sums.changed_cells, self._link, route, since=since - life)
        version, starts = await self._around_damage(find)
        return life + version, starts

    async def _since(self, route: str, since: float | None, epoch: int | None) -> float | None:
        """Nothing was decided in an epoch before it was published: that spares reading older buckets."""
        if epoch is None:
            return since
        found = await self.allocation(route, epoch)
        if found is None:
            return since
        published = min(found.time, self._clock())  # the clock may have been set back since
        return max(published - MAX_CLOCK_SKEW_S, since if since is not None else 0.0)

    linear_sums = _of_cells(linear.totals)
    linear_series = _of_cells(linear.series)
    series = _of_cells(sums.series)
    reduced_series = _of_cells(sums.reduced_series)
    agreement = _asks(sums.agreement)
    agreement_series = _asks(sums.agreement_series)

    # Control ------------------------------------------------------------------------------------
    async def changed(self) -> int:
        count, lost = await self._count_changes(await self._routes())
        self._link.breaks += lost
        losses, self._losses = self._losses, []
        if lost or losses:
            more = f", and {len(losses) - _MAX_LOSSES} more" if len(losses) > _MAX_LOSSES else ""
            named = f" Lost: {'; '.join(losses[:_MAX_LOSSES])}{more}." if losses else ""
            await self._alarm("store_lost_data", _LOST.format(self._link.shown) + named)
        return count

    async def publish(self, allocation: Published, ensemble: bytes = b"") -> bool:
        await self._know(allocation.route)
        return await super().publish(allocation, ensemble)

    async def published(self) -> dict[str, Published]:
        return await self._published(await self._routes())
