"""Checks that run all the time: are units assigned as the allocation says, is the record whole, do rewards come?

The leader looks; what it finds is kept in the store as the route's alarms, so that every replica tells the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.config.policy import bandit_of
from gateway.loops import early_mismatch
from gateway.loops.allocation import Allocations
from gateway.loops.early_mismatch import EARLY_ALPHA
from gateway.loops.periodic import Failures, each_route
from gateway.loops.ratio import ALPHA, Ratios
from gateway.loops.recent_share import WINDOW_S, RecentShare
from gateway.loops.upkeep import retention
from gateway.state import damage, shapes
from gateway.state.base import MAX_CLOCK_SKEW_S, OutcomeFilter
from gateway.state.events import Events, Told
from gateway.state.store import DocumentStore, Store
from gateway.state.units import metric_of
from policies.sequential.two_sample import RateMartingale, mean_interval
from policies.types import CLIENT_ERROR_RATE

log = logging.getLogger("turnout.alarms")

KIND: Final = shapes.kind("alarms", [{"code": str, "message": str, "since?": float, "seen?": float}])
ALARMS_S: Final = 10.0
"""Seconds between two looks; as long as a bucket of the aggregates, so that a look sees something new."""
MIN_SERVED: Final = 200
"""Responses of a variant, or its decisions by `POST /-/decide`, without a single reward that raise an alarm."""
REWARD_DELAY_S: Final = 300.0
"""Seconds before a missing reward is missing and not late."""

MAX_ERROR_RATE: Final = 0.2
"""A variant whose error rate is shown to be above this is failing."""
STRETCHES_S: Final = (120.0, 1200.0, 14_400.0)
"""Lengths of the stretches over which a variant's error rate is looked at: short ones find a fault soon, long
ones find it where there is little traffic."""

GATEWAY: Final = ""
"""The name under which alarms of the gateway as a whole are kept."""
OF_PROCESSES: Final = frozenset(("rewards_rejected", "shadow_body_too_large"))
"""Alarms that any process may raise, and ends itself."""
RENEWAL_S: Final = 60.0
"""Seconds after which a process says again that its alarm stands."""
FORGOTTEN_S: Final = 300.0
"""Seconds without a renewal after which an alarm has lost its process."""
RECORD_LOSS_S: Final = 86_400.0
"""Seconds after which a loss of outcomes is over, if no other follows: until then comparisons are not trusted."""
_WINDOW: Final = f"{WINDOW_S / 60:.0f} minutes"
INVALID: Final = ("sample_ratio_mismatch", "record_loss", "engine_rows_lost")
"""Alarms that make comparisons worthless."""

_Stretch = tuple[float, Mapping[str, tuple[int, int]]]
"""Seconds, and by variant the requests and errors in them."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person should look at."""

    code: str
    """sample_ratio_mismatch | record_loss | rewards_rejected |
    shadow_body_too_large | engine_refused | engine_silent | engine_clock | engine_rows_lost |
    no_rewards | variant_failing | client_errors | archive_failed | record_damaged"""
    message: str


async def distrust(store: DocumentStore, name: str, since: float) -> str:
    """ "" or why comparisons on the route ``name`` can't be trusted: what was raised after ``since``."""
    for _, text in (await store.load_all(KIND, (name, GATEWAY))).values():
        for alarm in json.loads(text):
            if alarm["code"] in INVALID and alarm.get("since", 0.0) > since:
                return f"{alarm['code']}: {alarm['message']}"
    return ""


async def doubt(store: DocumentStore, name: str, since: float) -> str:
    """ "" or why no winner is to be named on the route ``name``: as `distrust`, or early evidence."""
    return await distrust(store, name, since) or await early_mismatch.early_mismatch(store, name, since)


class Alarms:
    """The alarms of every route, in one process."""

    def __init__(
        self,
        store: Store,
        allocations: Allocations,
        *,
        clock: Clock,
        events: Events,
        raised: Callable[[str, str], None],
        dropped: Callable[[], int],
        reported: Callable[[], tuple[int, Mapping[str, int]]] = lambda: (0, {}),
        copies: Callable[[], tuple[int, Mapping[str, int]]] = lambda: (0, {}),
        troubles: Callable[[], Mapping[str, str]] = dict,
        lost_rows: Callable[[str], str] = lambda route: "",
        refusing: Callable[[str], str] = lambda route: "",
    ) -> None:
        """``raised(route, code)`` counts a new alarm; ``dropped()`` is how many outcomes this process lost;
        ``reported()`` how many rewards it received, and by error code how many it rejected;
        ``copies()`` how many copies for shadows were due, and by route how many had too large a body;
        ``troubles()`` what is wrong with engines and the archive, by code of the alarm;
        ``lost_rows(route)`` why its engine's record is not whole;
        ``refusing(route)`` why its candidate is held for its client errors."""
        self._store = store
        self._allocations = allocations
        self._clock = clock
        self._events = events
        self._raised = raised
        self._dropped = dropped
        self._told = 0
        self._reported = reported
        self._rejected_rewards = RecentShare()
        self._copies = copies
        self._large_bodies = RecentShare()
        self._troubles = troubles
        self._lost_rows = lost_rows
        self._refusing = refusing
        self._damage: Mapping[str, tuple[int, str]] = {}
        self._early: Mapping[str, tuple[int, str]] = {}
        self._standing: dict[str, float] = {}
        """This process's own alarms by code: when each was renewed."""
        self._failures = Failures()
        self._ratios = Ratios(store, clock)
        self._heard_in: Document | None = None
        self._heard: set[str] = set()
        """Routes of that document all of whose variants had a reward."""

    async def step(self, document: Document) -> None:
        """One look: at this process's record and rewards, and as the leader at every route."""
        await self.record_loss()
        await self.rejected_rewards()
        await self.large_bodies()
        # Another leader reads on meanwhile: what was read here will be outdated.
        if not self._allocations.leads:
            self._ratios.forget()
            return
        await self.engine_troubles()
        await self.forgotten()
        routes = tuple(document.routes)
        stored = await self._store.load_all(KIND, routes)
        self._damage = await self._store.load_all(damage.KIND, routes)
        self._early = await self._store.load_all(early_mismatch.KIND, routes)
        await each_route(
            "the check", routes, lambda name: self.look(document, name, stored.get(name)), self._failures
        )

    async def record_loss(self) -> None:
        """Any process may lose outcomes, so each tells its own."""
        lost = self._dropped()
        if lost > self._told:
            message = f"{lost - self._told} outcomes were not recorded: the store is too slow or away."
            # Or, while the store is away, at a later look.
            await self._keep_own(
                "record_loss", message, ("alarm", {"code": "record_loss", "message": message})
            )
            self._told = lost
            self._raised("", "record_loss")

    async def rejected_rewards(self) -> None:
        """Each process tells what its clients report in vain."""
        received, rejected = self._rejected_rewards.look(self._clock(), *self._reported())
        message = ""
        for code, most in rejected.most_common(1):
            message = (
                f"{rejected.total()} of {received} reported rewards were rejected in the last {_WINDOW}, "
                f"{most} with '{code}'; the response to POST /-/feedback names each."
            )
        await self._tell_change("rewards_rejected", message)

    async def large_bodies(self) -> None:
        """Each process tells which requests its shadows do not get: comparisons do not cover them."""
        due, dropped = self._large_bodies.look(self._clock(), *self._copies())
        message = ""
        for route, most in dropped.most_common(1):
            message = (
                f"{dropped.total()} of {due} copies for shadows were not sent in the last {_WINDOW}, because the body "
                f"is larger than 'buffer_limit': {most} of them on the route {route!r}; raise it there."
            )
        await self._tell_change("shadow_body_too_large", message)

    async def _tell_change(self, code: str, message: str) -> None:
        """Raise or end an alarm of this process, if that is a change; renew one that stands."""
        now, renewed = self._clock(), self._standing.get(code)
        if bool(message) != (renewed is not None):
            await self._tell_own(code, message)
        elif renewed is None or 0.0 <= now - renewed < RENEWAL_S:
            return
        else:
            await self._keep_own(code, message)
        if message:
            self._standing[code] = now
        else:
            del self._standing[code]

    async def forgotten(self) -> None:
        """The leader ends alarms of processes that have ended, and those of losses that are long past."""
        stored = await self._store.load(KIND, GATEWAY)
        kept_s = dict.fromkeys(OF_PROCESSES - self._standing.keys(), FORGOTTEN_S)
        kept_s["record_loss"] = RECORD_LOSS_S
        for alarm in json.loads(stored[1]) if stored is not None else ():
            seen = alarm.get("seen", alarm.get("since", 0.0))
            if self._clock() - seen >= kept_s.get(alarm["code"], inf):
                await self._tell_own(alarm["code"], "")
            elif seen > self._clock() + MAX_CLOCK_SKEW_S:  # the clock was set back: as in `look`
                await self._keep_own(alarm["code"], alarm["message"])

    async def engine_troubles(self) -> None:
        """The leader tells what is wrong with engines and the archive."""
        stored = await self._store.load(KIND, GATEWAY)
        standing = {alarm["code"] for alarm in json.loads(stored[1])} if stored is not None else set()
        for code, message in self._troubles().items():
            if bool(message) != (code in standing):
                await self._tell_own(code, message)

    async def _tell_own(self, code: str, message: str) -> None:
        """Raise an alarm of the gateway, or end it if ``message`` is empty."""
        if message:
            await self._keep_own(code, message, ("alarm", {"code": code, "message": message}))
            log.warning("%s", message)
            self._raised("", code)
        else:
            await self._keep_own(code, "", ("alarm_over", {"code": code}))

    async def _keep_own(self, code: str, message: str, *told: Told) -> None:
        """Store an alarm of the gateway, for `distrust` and for metrics; remove it if ``message`` is empty."""
        saved = False
        while not saved:  # all processes keep theirs once a store is back
            before = await self._store.load(KIND, GATEWAY)
            known = json.loads(before[1]) if before is not None else []
            kept = [a for a in known if a["code"] != code]
            if message:
                now = self._clock()
                # Another process may have raised it, or this one renews it.
                earlier = [a for a in known if a["code"] == code and code in OF_PROCESSES]
                raised = [a.get("since", now) for a in earlier]
                kept.append({"code": code, "message": message, "since": min([now, *raised]), "seen": now})
            expected = before[0] if before is not None else 0
            saved = await self._events.save(KIND, GATEWAY, json.dumps(kept), expected=expected, told=told)

    async def look(self, document: Document, name: str, before: tuple[int, str] | None) -> list[Alarm]:
        """Looks at one route, and keeps and tells what changed. ``before``: version and text of its stored alarms."""
        lost, refusing = self._lost_rows(name), self._refusing(name)
        mismatch, early = await self._ratio(document, name)
        looks = (
            Alarm("engine_rows_lost", lost) if lost else None,
            self._damaged(document, name),
            mismatch,
            await self._silent(document, name),
            await self._failing(document, name),
            Alarm("client_errors", f"The rollout does not go on: {refusing}.") if refusing else None,
        )
        alarms = [alarm for alarm in looks if alarm is not None]
        now = self._clock()
        stored = {
            a["code"]: a.get("since", now) for a in (json.loads(before[1]) if before is not None else ())
        }
        # Of a clock that was set back: a person who resumes would not acknowledge one that is dated ahead.
        known = {code: min(since, now) for code, since in stored.items()}
        # One that was an alarm before is as old as that: a person may have resumed with it in mind.
        raised = known.get("sample_ratio_mismatch", now)
        await early_mismatch.keep(self._store, name, self._early, early, raised)
        if known == stored and known.keys() == {a.code for a in alarms}:
            return alarms
        text = json.dumps(
            [{"code": a.code, "message": a.message, "since": known.get(a.code, now)} for a in alarms]
        )
        new = [alarm for alarm in alarms if alarm.code not in known]
        told: list[Told] = [("alarm", {"code": alarm.code, "message": alarm.message}) for alarm in new]
        told += [("alarm_over", {"code": code}) for code in known.keys() - {a.code for a in alarms}]
        expected = before[0] if before is not None else 0
        if await self._events.save(KIND, name, text, expected=expected, told=told):
            for alarm in new:
                log.warning("%s: %s", name, alarm.message)
                self._raised(name, alarm.code)
        return alarms

    def _damaged(self, document: Document, name: str) -> Alarm | None:
        text = self._damage.get(name, (0, None))[1]
        message = damage.message(text, self._clock(), retention(document).outcomes)
        return Alarm("record_damaged", message) if message else None

    async def _ratio(self, document: Document, name: str) -> tuple[Alarm | None, str]:
        """The alarm of a mismatch; or what there is of one already, empty for none."""
        found = await self._ratios.look(name, document.routes[name])
        if found is None or not found[0].mismatch(EARLY_ALPHA):
            return None, ""
        ratio, what = found
        shown = ", ".join(f"{v}: {n:.0f} (expected {ratio.expected[v]:.0f})" for v, n in ratio.counts.items())
        if not ratio.mismatch(ALPHA):
            return None, f"variants may not be assigned as the allocation says, in {what}: {shown}"
        message = (
            f"Variants were not assigned as the allocation says, in {what}: {shown}. Comparisons can't be trusted "
            "until the cause is known (a retrying client, requests of one variant that do not end, a lost part of the "
            "record, a cache in front)."
        )
        return Alarm("sample_ratio_mismatch", message), ""

    async def _silent(self, document: Document, name: str) -> Alarm | None:
        """A variant that serves and gets no reward, while others get some.

        All of the route's history is asked for, so a route is left alone once each of its variants had a reward.
        """
        if self._heard_in is not document:
            self._heard_in, self._heard = document, set()
        # Where a missing value is a zero, or the gateway reports it, silence says nothing of the clients.
        meant = {CLIENT_ERROR_RATE} | {
            metric for metric, m in document.metrics.items() if m.missing == "zero" or m.usage is not None
        }
        if name in self._heard or document.metrics.keys() <= meant:
            return None
        decided = await self._store.decided(name, until=self._clock() - REWARD_DELAY_S)
        variants = document.routes[name].variants  # a removed one gets no more rewards
        asked = [v for v, (n, _, errors) in decided.items() if v in variants and n - errors >= MIN_SERVED]
        if not asked:
            return None
        sums = await self._store.reward_sums(name)
        rewarded = {variant for (variant, m), s in sums.items() if s.count and metric_of(m) not in meant}
        if variants.keys() <= rewarded:
            self._heard.add(name)
        silent = [v for v in asked if v not in rewarded]
        if not silent or not (rewarded or _learns(document, name, meant)):
            return None
        return Alarm(
            "no_rewards",
            f"No reward was ever reported for {', '.join(silent)}; check that clients report with the decision id.",
        )

    async def _failing(self, document: Document, name: str) -> Alarm | None:
        """Variants whose error rate is shown to be above `MAX_ERROR_RATE`, and not shown to be below it since.

        Each stretch begins at a multiple of its length, so that its interval is always valid, and is between
        one and two lengths long, so that the alarm does not end because a new stretch begins.
        """
        now, stretches = self._clock(), list[_Stretch]()
        variants = document.routes[name].variants  # a removed one fails no client any more
        for length in reversed(STRETCHES_S):
            since = (now // length - 1) * length
            decided = await self._store.decided(name, since=since)
            if not decided:
                break  # nor in the shorter stretches
            served = {v: one[1:] for v, one in decided.items() if one[1] and v in variants}
            stretches.append((now - since, served))
        failing = await asyncio.to_thread(_failures, stretches) if stretches else {}
        messages = [await self._with_error(name, v, m) for v, m in failing.items()]
        return Alarm("variant_failing", " ".join(messages)) if messages else None

    async def _with_error(self, name: str, variant: str, message: str) -> str:
        last = await self._store.outcomes(OutcomeFilter(name, variant=variant, errors_only=True, limit=1))
        return f"{message} Last error: {last[0].error}." if last else message


def _failures(stretches: Iterable[_Stretch]) -> dict[str, str]:
    """Messages by variant, from stretches with the longest first."""
    failing = dict[str, str]()
    for seconds, decided in stretches:
        for variant, (assigned, errors) in decided.items():
            if errors <= MAX_ERROR_RATE * assigned and variant not in failing:
                continue  # the interval would hold the rate itself, and takes a millisecond
            low, high = _error_interval(errors, assigned)
            if low > MAX_ERROR_RATE:
                failing[variant] = _failure(variant, assigned, errors, low, seconds)
            elif high < MAX_ERROR_RATE:
                failing.pop(variant, None)
    return failing


def _error_interval(errors: int, assigned: int) -> tuple[float, float]:
    """Always-valid interval of an error rate, at each stretch's part of `ALPHA`."""
    if not assigned:
        return 0.0, 1.0
    return mean_interval(RateMartingale(min(errors, assigned), assigned), ALPHA / len(STRETCHES_S))


def _failure(variant: str, assigned: int, errors: int, low: float, seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return (
        f"{variant} fails: {errors:,} of {assigned:,} requests of the last {minutes} min, "
        f"so its error rate is above {low:.0%}."
    )


def _learns(document: Document, name: str, meant: Collection[str]) -> bool:
    policy = bandit_of(document.routes[name].policy)
    return policy is not None and any(metric not in meant for metric in policy.metrics)
