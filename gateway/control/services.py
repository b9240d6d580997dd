"""What the handlers share: the gateway, sessions, the event stream, and reports, cached for a second."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Final, NamedTuple

from gateway.compile.plans import plan, reported
from gateway.config.policy import bandit_of
from gateway.control.event_stream import EventStream
from gateway.control.feedback_token import FeedbackTokens
from gateway.control.gateway_api import GatewayApi, RouteStatus
from gateway.control.json_reader import JsonReader
from gateway.control.login_limit import LoginLimit
from gateway.control.reports.observed import newest
from gateway.control.reports.route import RECENT_S, Evidence, Json, recent, report, standing, summary
from gateway.control.reports.served import together
from gateway.control.session import Sessions
from gateway.control.views import MAX_INTERVAL_S, Views
from gateway.errors import TurnoutError
from gateway.ingest.by_unit import OutcomesByUnit
from gateway.ingest.comparable import units_of_all_time
from gateway.ingest.evidence import RewardedBucket, by_time, of_buckets, over_time, rewarded
from gateway.ingest.feature_rows import linear_sums
from gateway.state import history
from gateway.state.base import ALLOCATION, Event, StoreUnavailable
from gateway.telemetry.repeats import Repeats
from policies.allocation.bandit import discounted
from policies.contextual.bandit import Contextual
from policies.contextual.regression import LinearSums
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import Discounted, PairSums

log = logging.getLogger("turnout.control")

FRESH_S: Final = 1.0
"""A report is served from the cache for this long unless the store has changed."""
MIN_STANDING_S: Final = 10.0
MAX_STANDING_S: Final = 240.0
STANDING_TIME_FACTOR: Final = 120.0
"""The expensive part of the list of routes is cached for 120 times as long as it takes, within these,"""
MAX_STANDING_SHARE: Final = 0.1
"""unless it would take more than this part of the time."""
MIN_HEAVY_S: Final = 1.0
"""Seconds from which the cost of a shared value limits how often it is computed."""
MAX_STANDING_WAIT_S: Final = 1.0
"""The list of routes waits this long for what is not computed yet, or computed for an earlier configuration."""
MAX_UNITS_LOOK_S: Final = 0.25
"""A report reads the record of a route with sticky units for this long; the next one goes on."""
MAX_CACHED: Final = 512
MAX_HALF_LIVES: Final = 10
"""Older rewards weigh less than a thousandth."""


class ControlServices:
    """The state of one control application."""

    def __init__(self, gateway: GatewayApi) -> None:
        self.gateway = gateway
        self.sessions = Sessions(gateway)
        self.feedback_tokens = FeedbackTokens(gateway)
        self.logins = LoginLimit()
        self.events = EventStream(gateway, self._refresh_views)
        self.views = Views()
        self.json_reader = JsonReader()
        self.closing = asyncio.Event()
        """Set when the gateway shuts down: event streams end."""
        self._cache = _Cache(gateway)
        self._standings: dict[str, _Standing] = {}
        self._computing: dict[str, asyncio.Task[Json]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._alarms = _Lists(gateway, "alarms")
        self._guardrails = _Lists(gateway, "guardrails")
        self._steps = _Lists(gateway, history.KIND)
        self._standing_times: dict[str, float] = {}
        """Seconds that the last standing of each route took."""
        self.rejections = Repeats()
        """Of the log, on rejected rewards by key and error code."""
        self._units = OutcomesByUnit(gateway.store, gateway.now, max_look_s=MAX_UNITS_LOOK_S)
        self._units_since: dict[str, tuple[float, int | None]] = {}
        self._units_lock = asyncio.Lock()

    def _refresh_views(self, event: Event) -> None:
        if event.kind == ALLOCATION:  # a bandit publishes one each second
            self.views.follow(event.route)
        else:
            self.views.refresh(event.route)

    async def _summary(self, name: str, alarms: list[Json], steps: list[Json], deadline: float) -> Json:
        """Return the route's entry in the list, with the figures of the last minutes. Raises not_found."""
        standing, late = await self._known_standing(name, deadline), self._standing_late()
        status, rollout = self.status(name), await self._rollout(name, steps, late)
        now = self.gateway.now()
        counts = await self.gateway.store.counts(name, since=now - RECENT_S)
        return {
            **summary(name, self.gateway.document(), status, rollout, now),
            "recent": recent(together(counts), standing["first_decision"], now),
            "alarms": alarms,
            "last_step": history.last(steps),
            **standing,
            "stop": self.gateway.stop_state(name),
            "held": await self.gateway.held(name) or None,
        }

    async def _known_standing(self, name: str, deadline: float) -> Json:
        """Return the standing as far as it is computed by ``deadline``: with months of history, all take minutes.

        Raises not_found, StoreUnavailable.
        """
        revision, known = self.gateway.revision().revision, self._standings.get(name)
        if known is not None and (known.revision != revision or perf_counter() > known.late):
            known = None
        if known is not None and perf_counter() < known.due:
            return known.found
        task = self._computing.get(name)
        if task is None:
            task = self._computing[name] = asyncio.create_task(self._compute_standing(name, revision))
            task.add_done_callback(partial(self._computed, name))
        if known is None:
            await asyncio.wait((task,), timeout=max(deadline - perf_counter(), 0.0))
            if task.done():
                return task.result()
            empty = standing(name, self.gateway.document(), Evidence(), self.status(name), self.gateway.now())
            return {**empty, "standings": None}
        return known.found

    def _computed(self, name: str, task: asyncio.Task[Json]) -> None:
        del self._computing[name]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StoreUnavailable | TurnoutError):
            log.error("the standing of %s could not be computed", name, exc_info=error)

    async def _compute_standing(self, name: str, revision: int) -> Json:
        async with self._one_at_a_time:
            found = await self._standing(name)
        now = perf_counter()
        self._standings[name] = _Standing(
            revision, now + self._standing_age(), now + self._standing_late(), found
        )
        return found

    def _standing_age(self) -> float:
        """Seconds for which a standing is served."""
        took = sum(self._standing_times.values())
        usual = max(MIN_STANDING_S, min(MAX_STANDING_S, STANDING_TIME_FACTOR * took))
        return max(usual, took / MAX_STANDING_SHARE)

    def _standing_late(self) -> float:
        """Seconds after which a standing is too old to be shown."""
        return 2 * self._standing_age() + MAX_INTERVAL_S

    async def _standing(self, name: str) -> Json:
        """The part of a summary that is expensive and changes slowly; its rollout is judged."""
        began = perf_counter()
        document, status = self.gateway.document(), self.status(name)
        await self.gateway.rollout_state(name)
        evidence = await self._sums(name, None, None, histograms=False)
        made = await asyncio.to_thread(standing, name, document, evidence, status, self.gateway.now())
        self._standing_times[name] = perf_counter() - began
        return made

    async def summaries(self, serves: Callable[[str], bool] = lambda _: True) -> dict[str, Json]:
        """Return the summaries of the routes that ``serves`` accepts, by name; without those that an edit removes."""
        found = await self._cache.get(("summaries",), self._summaries)
        return {name: one for name, one in found.items() if serves(name)}

    async def _summaries(self) -> dict[str, Json]:
        names, found = list(self.gateway.document().routes), {}
        for kept in (self._standings, self._standing_times, self._units_since):
            for name in kept.keys() - names:  # an edit has removed the route
                del kept[name]
        alarms, steps = await self._alarms.read(names), await self._steps.read(names)
        deadline = perf_counter() + MAX_STANDING_WAIT_S
        for name in names:
            try:
                found[name] = await self._summary(name, alarms[name], steps[name], deadline)
            except (TurnoutError, KeyError):
                if name in self.gateway.document().routes:
                    raise
        return found

    async def overview(self) -> dict[str, Json]:
        """Return the view of all routes: the summaries, and under "" what concerns all of them."""
        whole = {"refused": self.gateway.revisions.refused, "alarms": await self.alarms()}
        return {**await self.summaries(), "": whole}

    async def alarms(self) -> list[Json]:
        """Return the alarms of the gateway as a whole."""
        return (await self._alarms.read(("",)))[""]

    async def report(
        self, name: str, since: float | None, epoch: int | None, baseline: str | None = None
    ) -> Json:
        """Return the whole report of a route. Raises not_found."""

        async def make() -> Json:
            steps = (await self._steps.read((name,)))[name]
            status, rollout = self.status(name), await self._rollout(name, steps)
            document, evidence = self.gateway.document(), await self._evidence(name, since, epoch)
            now = self.gateway.now()
            return await asyncio.to_thread(
                report, name, document, evidence, status, rollout, now, since, baseline
            )

        return await self._cache.get(("report", name, since, epoch, baseline), make)

    async def shared(self, key: tuple[Any, ...], make: Callable[[], Awaitable[Json]]) -> Json:
        """Return what ``make`` returns, computed once for all who ask for ``key`` while the store stays as it is.

        What takes more than `MIN_HEAVY_S` is kept for ten times as long as it took, whatever comes meanwhile: it never
        takes more than a tenth of the time, however many ask.
        """
        return await self._cache.get(key, make, heavy=True)

    async def _rollout(self, name: str, steps: list[Json], max_age: float = 0.0) -> Json | None:
        """The state of the rollout, with its last step and the evidence for that step; ``max_age``: of its
        verdicts."""
        state = await self.gateway.rollout_state(name, max_age)
        return None if state is None else {**state, "decided": history.decided(steps)}

    def status(self, name: str) -> RouteStatus:
        """Return how the route runs now. Raises not_found."""
        status = self.gateway.route_status(name)
        if status is None:
            raise TurnoutError(
                "not_found", f"The route {name!r} is no longer served; GET /-/routes lists those that are."
            )
        return status

    async def _evidence(self, name: str, since: float | None, epoch: int | None) -> Evidence:
        whole, found = since is None and epoch is None, await self._sums(name, since, epoch)
        store = self.gateway.store
        counts = await store.counts(name, since=self.gateway.now() - RECENT_S)
        return replace(
            found,
            part=not whole,
            counts=await store.counts(name, since=since, epoch=epoch),
            discounted=await self._discounted(name),
            recent=together(counts),
            alarms=(await self._alarms.read((name,)))[name],
            guardrails=(await self._guardrails.read((name,)))[name],
            held=await self.gateway.held(name),
            units=await self._outcomes_by_unit(name, found.buckets) if whole else None,
            earned=await self._earned(name) if not whole else {},
            rows=await self._rows(name) if whole else {},
        )

    async def _sums(
        self, name: str, since: float | None, epoch: int | None, *, histograms: bool = True
    ) -> Evidence:
        """The evidence without what only a whole report needs."""
        store, now = self.gateway.store, self.gateway.now()
        declared = reported(self.gateway.document(), name)
        found = await rewarded(
            store,
            name,
            declared,
            now=now,
            since=since,
            epoch=epoch,
            part=since is not None or epoch is not None,
        )
        epochs = self.status(name).by_epoch
        buckets = await over_time(
            store, name, declared, now=now, since=since, epoch=epoch, histograms=histograms, epochs=epochs
        )
        return Evidence(
            rewards=found,
            agreement=await store.agreement(name, since=since),
            stop=self.gateway.stop_state(name),
            buckets=buckets,
        )

    async def _rows(self, name: str) -> dict[str, LinearSums]:
        """Return what the rewards say of the features, by variant; empty for a policy without features."""
        found = plan(self.gateway.document(), name)
        if not isinstance(found, Contextual):
            return {}
        return await linear_sums(self.gateway.store, name, found, now=self.gateway.now())

    async def _outcomes_by_unit(self, name: str, buckets: Sequence[RewardedBucket]) -> UnitOutcomes | None:
        """Return the units that are compared, of a day at most before this process began."""
        if self.gateway.document().routes[name].unit is None:
            return None
        by_epoch = self.status(name).by_epoch
        buckets = newest(buckets) if by_epoch else buckets
        if not buckets:
            return None
        epoch = buckets[0].epoch if by_epoch else None
        since, known = self._units_since.get(name, (0.0, None))
        if name not in self._units_since or known != epoch:
            since, _ = self._units_since[name] = buckets[0].start, epoch
        async with self._units_lock:
            return await self._units.read(name, since, epoch)

    async def _earned(self, name: str) -> dict[tuple[str, str], PairSums]:
        """Return the sums by sticky unit, by variant and metric; empty where requests are their own units."""
        if self.gateway.document().routes[name].unit is None:
            return {}
        return await units_of_all_time(self.gateway.store, name)

    async def _discounted(self, name: str) -> dict[tuple[str, str], Discounted]:
        policy = bandit_of(self.gateway.document().routes[name].policy)
        if policy is None or policy.discount is None:
            return {}
        half_life, now = policy.discount.half_life, self.gateway.now()
        since = now - MAX_HALF_LIVES * half_life
        step = max(10.0, half_life // 100 * 10)
        found = await self.gateway.store.series(
            name, since=since, until=now, step=step, epochs="together", histograms=False
        )
        read = of_buckets(found, reported(self.gateway.document(), name), now=now, step=step)
        return discounted(by_time(read), now=now, half_life=half_life)


class _Lists:
    """Documents of one kind that are lists, by route; a version is parsed once."""

    def __init__(self, gateway: GatewayApi, kind: str) -> None:
        self._gateway = gateway
        self._kind = kind
        self._parsed: dict[str, tuple[int, list[Json]]] = {}

    async def read(self, routes: Sequence[str]) -> dict[str, list[Json]]:
        """Return the lists of ``routes`` in one call of the store; empty where there is none."""
        kept = await self._gateway.store.load_all(self._kind, routes)
        for route in routes:
            version, text = kept.get(route, (0, "[]"))
            if self._parsed.get(route, (-1,))[0] != version:
                self._parsed[route] = (version, json.loads(text))
        return {route: self._parsed[route][1] for route in routes}


class _Standing(NamedTuple):
    """The standing of one route, as it was computed."""

    revision: int
    due: float
    """When it is to be computed again."""
    late: float
    """When it is too old to be shown: no one has asked for a while."""
    found: Json


class _Cache:
    """Values by key; concurrent requests for one share one computation."""

    def __init__(self, gateway: GatewayApi) -> None:
        self._gateway = gateway
        self._kept: dict[tuple[Any, ...], _Kept] = {}

    async def get(
        self, key: tuple[Any, ...], make: Callable[[], Awaitable[Json]], *, heavy: bool = False
    ) -> Json:
        revision, changed = self._gateway.revision().revision, await self._gateway.store.changed()
        known = self._kept.get(key)
        if known is not None and known.serves(revision, changed, heavy=heavy):
            return await asyncio.shield(known.made)
        self._kept.pop(key, None)
        if len(self._kept) >= MAX_CACHED:
            del self._kept[next(iter(self._kept))]  # the oldest
        kept = self._kept[key] = _Kept(revision, changed, perf_counter(), asyncio.ensure_future(make()))
        kept.made.add_done_callback(partial(self._end, key, kept))
        return await asyncio.shield(kept.made)

    def _end(self, key: tuple[Any, ...], kept: _Kept, made: asyncio.Future[Json]) -> None:
        kept.ended = perf_counter()
        # A failure is not cached, whether or not a client still waits.
        if (made.cancelled() or made.exception() is not None) and self._kept.get(key) is kept:
            del self._kept[key]


@dataclass(slots=True, eq=False)
class _Kept:
    """A value of the cache."""

    revision: int
    changed: int
    began: float
    made: asyncio.Future[Json]
    ended: float = math.inf

    def serves(self, revision: int, changed: int, *, heavy: bool) -> bool:
        """Whether it is new enough; ``heavy``: for its cost."""
        now, took = perf_counter(), self.ended - self.began
        if heavy and revision == self.revision and took >= MIN_HEAVY_S:
            return now < self.ended + took / MAX_STANDING_SHARE  # or it is still computed
        return (revision, changed) == (self.revision, self.changed) and now - self.began < FRESH_S
