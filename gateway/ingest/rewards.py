"""Reported rewards: checked against the declared metrics and stored, with a result for each item."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Protocol

from gateway.clock import Clock, wall
from gateway.config.service import MetricConfig
from gateway.errors import TurnoutError
from gateway.ingest.metric_values import RejectedItem, checked_value, worst
from gateway.ingest.request_lookup import Found, RequestIds
from gateway.ingest.reward_items import item_parts, named_request
from gateway.ingest.sealing_keys import SealingKeys
from gateway.ingest.spool import Spool
from gateway.ingest.stamped import StampedUnits
from gateway.record.decision_id import BadDecisionId, Opened, Sealer
from gateway.record.events import Outcome, Reward
from gateway.record.request_ids import AMBIGUOUS
from gateway.state.base import RewardResult, StoreUnavailable
from gateway.state.store import DocumentStore, RecordStore

MAX_ITEMS: Final = 10_000
"""Items of one call."""
_MAX_CLOCK_SKEW_S: Final = 60.0
"""Difference between the clocks of two replicas."""
_ITEMS_PER_TURN: Final = 200
"""Items checked in one turn of the event loop: a full call would delay requests by its whole length."""
MAX_REQUEST_IDS: Final = 1000
"""Items of one call that name a request by its id; each is looked up."""
_UNSETTLED: Final = "The gateway has just started, and may not know the newest configuration; report again."

_Named = Opened | RejectedItem | BadDecisionId
"""The contents of an item's id, where they were looked up, or the reason to reject it."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason why an item was rejected."""

    index: int
    code: str
    message: str


@dataclass(slots=True)
class FeedbackReport:
    """The result of one call, by item."""

    accepted: int = 0
    duplicates: int = 0
    updated: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    rewards: list[tuple[Reward, RewardResult]] = field(default_factory=list)
    """Accepted values in the order of the items; those that go to the spool all count as accepted."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``POST /-/feedback``."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "updated": self.updated,
            "rejected": [{"index": r.index, "code": r.code, "message": r.message} for r in self.rejected],
        }


class RewardStore(RecordStore, DocumentStore, Protocol):
    """The parts of the store for rewards and for the keys of decision ids."""


class RewardIngest:
    """Accepts reports of rewards. ``metrics`` may be replaced at any time."""

    def __init__(
        self,
        store: RewardStore,
        sealer: Sealer,
        *,
        metrics: Mapping[str, MetricConfig] | None = None,
        clock: Clock = wall,
        spool: Spool | None = None,
        allowed: Callable[[str, str], bool] | None = None,
        period: Callable[[str, int, float, str], str] | None = None,
        request_lookup: RequestIds | None = None,
        stamped_units: StampedUnits | None = None,
        starting_s: float = 0.0,
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        """Set up ingestion.

        Args:
            store: Destination of rewards.
            sealer: Opens decision ids.
            metrics: Declared metrics by name.
            clock: Seconds since the epoch.
            spool: Accepts rewards while the store is away; None: they are refused then.
            allowed: Whether a route accepts a metric; None: every route accepts all.
            period: (route, epoch, time of the decision, metric) → the period within which the values of a sticky unit
                are one observation; None: the epoch.
            request_lookup: Finds requests by request id; None: items need a decision id.
            stamped_units: Finds the units of requests that other proxies served; None: they have none.
            starting_s: Seconds from now in which an id with an unknown key waits for it.
            settled: Whether the newest configuration has been read; else an unknown metric may be one of it.
        """
        self.request_lookup = request_lookup
        self.stamped_units = stamped_units
        self.store = store
        self.sealer = sealer
        self.metrics: Mapping[str, MetricConfig] = metrics or {}
        self.spool = spool
        self.allowed = allowed
        self.period = period or (lambda route, epoch, decided, metric: f"e{epoch}")
        self.counts: Counter[str] = Counter()
        """Totals of accepted | duplicate | updated | rejected items."""
        self.rejections: Counter[str] = Counter()
        """Totals of rejected items by error code."""
        self._clock = clock
        self._keys = SealingKeys(store, sealer, starting_s)
        self._settled = settled

    def open(self, text: str) -> Opened:
        """Open a decision id. Raises BadDecisionId."""
        return self.sealer.open(text)

    async def take(
        self,
        items: Sequence[object],
        *,
        may_report: Callable[[str], bool] = lambda route: True,
        principal: str = "",
        of_others: bool = True,
    ) -> FeedbackReport:
        """Check each item and store the valid ones, in order.

        Args:
            items: JSON objects with ``decision_id``, ``metric``, ``value`` (null retracts) and optionally ``tags``;
                with a ``request_lookup``, ``route`` and ``request_id`` may replace ``decision_id``.
            may_report: Whether the caller's key serves a route.
            principal: Id of the caller's key.
            of_others: Whether the caller may name requests of other keys by their request ids.

        Raises:
            TurnoutError: There are too many items (body_too_large).
            StoreUnavailable: Neither the store nor the spool accepts them, or a look-up failed; nothing is stored.
        """
        if len(items) > MAX_ITEMS:
            raise TurnoutError(
                "body_too_large", f"There are {len(items)} items; send at most {MAX_ITEMS} in one call."
            )
        report = FeedbackReport()
        now, came = self._clock(), monotonic()
        named = await self._looked_up(items, may_report, principal, of_others)
        named.update(await self._of_other_proxies(items, came))
        rewards = await self._checked(items, may_report, report, named, now, came)
        results = await self.keep(rewards) if rewards else []
        report.rewards = list(zip(rewards, results, strict=True))
        tally = Counter(results)
        report.accepted, report.duplicates = tally["accepted"], tally["duplicate"]
        report.updated = tally["updated"]
        self.counts["rejected"] += len(report.rejected)
        self.rejections.update(rejection.code for rejection in report.rejected)
        return report

    async def _checked(
        self,
        items: Sequence[object],
        may_report: Callable[[str], bool],
        report: FeedbackReport,
        named: Mapping[int, _Named],
        now: float,
        came: float,
    ) -> list[Reward]:
        rewards = []
        for index, item in enumerate(items):
            if index % _ITEMS_PER_TURN == _ITEMS_PER_TURN - 1:
                await asyncio.sleep(0)
            try:
                try:
                    rewards.append(self._reward(item, may_report, now, named.get(index)))
                except BadDecisionId as error:
                    if error.code != "unknown_key" or index in named:
                        raise
                    opened = await self._keys.open(item_parts(item)[0], came)
                    rewards.append(self._reward(item, may_report, now, opened))
            except (BadDecisionId, RejectedItem) as error:
                if error.code == "unknown_metric" and not self._settled():
                    raise StoreUnavailable(_UNSETTLED) from error
                report.rejected.append(Rejection(index, error.code, str(error)))
        return rewards

    async def _looked_up(
        self, items: Sequence[object], may_report: Callable[[str], bool], principal: str, of_others: bool
    ) -> dict[int, _Named]:
        """Index of an item that has a request id → the contents of its decision id, or the reason to reject it."""
        places = [i for i, item in enumerate(items) if isinstance(item, Mapping) and "request_id" in item]
        if not places:
            return {}
        if self.request_lookup is None or not self.request_lookup.enabled:
            text = "Requests are not indexed by their ids; write 'record: {request_ids: true}', or send decision_id."
            return dict.fromkeys(places, RejectedItem("invalid", text))
        if len(places) > MAX_REQUEST_IDS:
            text = (
                f"{len(places)} items name a request_id; send at most {MAX_REQUEST_IDS} of them in one call."
            )
            raise TurnoutError("body_too_large", text)
        wanted = [named_request(items[place]) for place in places]
        visible = [pair for pair in wanted if may_report(pair[0])]
        known = await self.request_lookup.find(visible, principal, of_others=of_others)
        answers = iter(known)
        found: dict[int, _Named] = {}
        for place, (route, _) in zip(places, wanted, strict=True):
            one = next(answers) if may_report(route) else None
            if isinstance(one, Found):
                found[place] = one.opened
            elif not route:
                found[place] = RejectedItem("invalid", "An item needs route and request_id, both text.")
            elif one == AMBIGUOUS:
                found[place] = RejectedItem(
                    "ambiguous_request",
                    "Several requests of the route have this request_id; send decision_id.",
                )
            else:  # the same for another key's request: whether it exists is not the caller's business
                found[place] = RejectedItem(
                    "unknown_request",
                    "No request of yours with this request_id is known on this route within its metric's window. "
                    "If it was made a moment ago, report again: a request is known once its outcome is written.",
                )
        return found

    async def _of_other_proxies(self, items: Sequence[object], came: float) -> dict[int, _Named]:
        """Index of an item whose id another proxy made → its contents, with the unit, or the reason to reject it."""
        opened: dict[int, Opened] = {}
        refused: dict[int, _Named] = {}
        for index, item in enumerate(items):
            if index % _ITEMS_PER_TURN == _ITEMS_PER_TURN - 1:
                await asyncio.sleep(0)
            identity = item.get("decision_id") if isinstance(item, Mapping) else None
            if isinstance(identity, str) and "." in identity:
                try:
                    opened[index] = await self._keys.open(identity, came)
                except BadDecisionId as error:
                    refused[index] = error
        if not opened or self.stamped_units is None:
            return refused | opened
        found = await self.stamped_units.found(list(opened.values()))
        return refused | dict(zip(opened, found, strict=True))

    async def keep(self, rewards: list[Reward]) -> list[RewardResult]:
        """Store rewards, or put them into the spool while the store is away, and count the results.

        Raises StoreUnavailable.
        """
        results = await self._store_or_spool(rewards)
        self.counts.update(results)
        return results

    async def _store_or_spool(self, rewards: list[Reward]) -> list[RewardResult]:
        if self.spool is None:
            return await self.store.reward(rewards)
        if not self.spool.waiting:
            try:
                return await self.store.reward(rewards)
            except StoreUnavailable:
                pass  # to the spool
        await self.spool.add(rewards)
        # Whether they are repetitions shows only in the store.
        return ["accepted"] * len(rewards)

    def observed(self, outcome: Outcome, name: str, value: float, context: bytes) -> Reward | None:
        """The reward for a value that the gateway saw itself; None if the route or the metric does not take it."""
        if self.allowed is not None and not self.allowed(outcome.route, name):
            return None  # no client reported it in vain
        try:
            metric = self._metric(outcome.route, name)
            checked = checked_value(value, metric, name)
        except RejectedItem as error:
            self.counts["rejected"] += 1
            self.rejections[error.code] += 1
            return None
        period = self.period(outcome.route, outcome.epoch, outcome.time, name) if outcome.sticky else ""
        return Reward(
            decision=outcome.decision,
            metric=name,
            value=checked,
            time=self._clock(),
            decided=outcome.time,
            route=outcome.route,
            assigned=outcome.assigned,
            served=outcome.served,
            epoch=outcome.epoch,
            propensity=outcome.propensity,
            unit=outcome.unit,
            forced=outcome.forced,
            worst=worst(metric),
            context=context.hex(),
            period=period,
        )

    # One item -----------------------------------------------------------------------------------
    def _reward(
        self,
        item: object,
        may_report: Callable[[str], bool],
        now: float,
        named: _Named | None = None,
    ) -> Reward:
        if isinstance(named, RejectedItem | BadDecisionId):
            raise named
        identity, name, given, tags = item_parts(item)
        opened = named or self.sealer.open(identity)
        if not may_report(opened.route):
            raise RejectedItem(
                "forbidden", f"The key does not serve the route {opened.route!r}; use one that does."
            )
        metric = self._metric(opened.route, name)
        _check_time(opened.decided, now, metric, name)
        return Reward(
            decision=opened.decision,
            metric=name,
            value=None if given is None else checked_value(given, metric, name),
            time=now,
            decided=opened.decided,
            route=opened.route,
            assigned=opened.assigned,
            served=opened.served,
            epoch=opened.epoch,
            propensity=opened.propensity,
            unit=opened.unit,
            forced=opened.forced,
            worst=worst(metric),
            tags=tags,
            context=opened.context.hex(),
            period=self.period(opened.route, opened.epoch, opened.decided, name) if opened.sticky else "",
        )

    def _metric(self, route: str, name: str) -> MetricConfig:
        metric = self.metrics.get(name)
        if metric is None:
            declared = ", ".join(sorted(self.metrics)) or "none"
            raise RejectedItem(
                "unknown_metric", f"No metric {name!r} is declared under 'metrics'; send one of: {declared}."
            )
        if self.allowed is not None and not self.allowed(route, name):
            raise RejectedItem(
                "unknown_metric",
                f"The route {route!r} takes no values of the metric {name!r}; add it to the route's 'feedback'.",
            )
        return metric


def _check_time(decided: float, now: float, metric: MetricConfig, name: str) -> None:
    if now - decided > metric.window:
        raise RejectedItem(
            "window_closed",
            f"{name!r} is accepted for {metric.window:g} s after the decision, which was {now - decided:.0f} s "
            "ago; report sooner, or lengthen the metric's window.",
        )
    if decided - now > _MAX_CLOCK_SKEW_S:
        raise RejectedItem(
            "clock_skew",
            f"The decision lies {decided - now:.0f} s in the future; set the clocks of all gateways by NTP.",
        )
