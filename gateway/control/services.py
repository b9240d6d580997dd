"""What the handlers share: the context, the logins, the news, and reports that are not made twice a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

from gateway.compile.plans import reported
from gateway.config.policy import bandit_of
from gateway.control.context import Context, Live
from gateway.control.event_stream import News
from gateway.control.feedback_token import FeedbackTokens
from gateway.control.json_text import JsonReader
from gateway.control.login_limit import LoginLimit
from gateway.control.reports.route import RECENT, Evidence, Json, recent, report, standing, summary
from gateway.control.session import Sessions
from gateway.control.views import Views
from gateway.errors import TurnoutError
from gateway.ingest.evidence import by_time, of_buckets, rewarded
from gateway.record.histogram import merge
from gateway.state import history
from gateway.state.base import Counts, Event
from policies.allocation.bandit import discounted
from policies.allocation.model import Discounted

FRESH: Final = 1.0
"""Seconds for which a report is given out again, unless the store says that something changed."""
STANDING_S: Final = 10.0
"""The same for what is dear to make of the list of routes."""
_KEPT: Final = 512
_HALF_LIVES: Final = 10
"""What is older than so many half-lives counts under a thousandth."""


class Desk:
    """One for each application."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sessions = Sessions(context)
        self.feedback_tokens = FeedbackTokens(context)
        self.logins = LoginLimit()
        self.news = News(context, self._heard)
        self.views = Views()
        self.json_reader = JsonReader()
        self.closing = asyncio.Event()
        """Set when the gateway shuts down: streams end."""
        self._cache = _Cache(context)

    def _heard(self, event: Event) -> None:
        if event.kind != "allocation":  # a bandit's come each second anyway
            self.views.hurry(event.route)

    async def summary(self, name: str) -> Json:
        """The route's entry of the list, with the figures of the last minutes."""

        async def make() -> Json:
            live, rollout = self.live(name), await self._rollout(name)
            now = self.context.now()
            counts = await self.context.store.counts(name, since=now - RECENT)
            shown = summary(name, self.context.document(), live, rollout, now)
            standing = await self._cache.get(("standing", name), lambda: self._standing(name), STANDING_S)
            return shown | {"recent": recent(together(counts)), "alarms": await self._alarms(name)} | standing

        return await self._cache.get(("summary", name), make)

    async def _standing(self, name: str) -> Json:
        """What is dear to make, and changes slowly."""
        document, steps = self.context.document(), await history.steps(self.context.store, name)
        made = await asyncio.to_thread(
            standing, name, document, await self._evidence(name, None, None), self.live(name)
        )
        return made | {"last_step": steps[-1] if steps else None}

    async def summaries(self, serves: Callable[[str], bool] = lambda _: True) -> dict[str, Json]:
        """By name, those of the routes that ``serves`` lets through; not of one that an edit takes away meanwhile."""
        found = {}
        for name in filter(serves, self.context.document().routes):
            try:
                found[name] = await self.summary(name)
            except (TurnoutError, KeyError):
                if name in self.context.document().routes:
                    raise
        return found

    async def overview(self) -> dict[str, Json]:
        """What the view of all routes shows: the summaries, and under no name what concerns all of them."""
        return {**await self.summaries(), "": {"refused": self.context.refused_config()}}

    async def report(
        self, name: str, since: float | None, epoch: int | None, baseline: str | None = None
    ) -> Json:
        """The whole report of a route."""

        async def make() -> Json:
            live, rollout = self.live(name), await self._rollout(name)
            document, evidence = self.context.document(), await self._evidence(name, since, epoch)
            now = self.context.now()
            return await asyncio.to_thread(
                report, name, document, evidence, live, rollout, now, since, baseline
            )

        return await self._cache.get(("report", name, since, epoch, baseline), make)

    async def _rollout(self, name: str) -> Json | None:
        """The rollout as it stands, with its last step and the evidence for that step as it stood."""
        state = await self.context.rollout_state(name)
        if state is None:
            return None
        return {**state, "decided": history.decided(await history.steps(self.context.store, name))}

    def live(self, name: str) -> Live:
        live = self.context.live(name)
        if live is None:
            raise TurnoutError("not_found", f"The route {name!r} is not served (any more).")
        return live

    async def _evidence(self, name: str, since: float | None, epoch: int | None) -> Evidence:
        store = self.context.store
        found = await rewarded(
            store,
            name,
            reported(self.context.document(), name),
            now=self.context.now(),
            since=since,
            epoch=epoch,
            part=since is not None or epoch is not None,
        )
        return Evidence(
            counts=await store.counts(name, since=since, epoch=epoch),
            rewards=found,
            discounted=await self._discounted(name),
            agreement=await store.agreement(name, since=since),
            recent=together(await store.counts(name, since=self.context.now() - RECENT)),
            alarms=await self._alarms(name),
            stop=self.context.stop_state(name),
        )

    async def _discounted(self, name: str) -> dict[tuple[str, str], Discounted]:
        policy = bandit_of(self.context.document().routes[name].policy)
        if policy is None or policy.discount is None:
            return {}
        half_life, now = policy.discount.half_life, self.context.now()
        since = now - _HALF_LIVES * half_life
        step = max(10.0, half_life // 100 * 10)
        found = await self.context.store.series(name, since=since, until=now, step=step)
        read = of_buckets(found, reported(self.context.document(), name), now=now, step=step)
        return discounted(by_time(read), now=now, half_life=half_life)

    async def _alarms(self, name: str) -> list[dict[str, Any]]:
        """What the watching loop has found and keeps in the store."""
        kept = await self.context.store.load("alarms", name)
        return list(json.loads(kept[1])) if kept is not None else []


def together(counts: dict[str, Counts]) -> Counts:
    """All variants as one."""
    each = list(counts.values())
    return Counts(
        assigned=sum(c.assigned for c in each),
        served=sum(c.served for c in each),
        errors=sum(c.errors for c in each),
        fallbacks=sum(c.fallbacks for c in each),
        latency=merge(c.latency for c in each),
        gateway=merge(c.gateway for c in each),
    )


class _Cache:
    """Values by key, each made once for all who ask at the same time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kept: dict[tuple[Any, ...], tuple[object, float, asyncio.Future[Json]]] = {}

    async def get(
        self, key: tuple[Any, ...], make: Callable[[], Awaitable[Json]], fresh: float | None = None
    ) -> Json:
        """``fresh``: seconds for which the value is good, whatever the store says."""
        revision = self._context.revision().revision
        state = (revision, None if fresh else await self._context.store.changed())
        known = self._kept.get(key)
        if known is not None and known[0] == state and perf_counter() - known[1] < (fresh or FRESH):
            return await asyncio.shield(known[2])
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        made = asyncio.ensure_future(make())
        self._kept[key] = (state, perf_counter(), made)
        try:
            return await asyncio.shield(made)
        except Exception:
            # A failure is not given out again.
            if self._kept.get(key, (None, 0.0, None))[2] is made:
                del self._kept[key]
            raise
