"""What clients report: checked against the declared metrics, made durable, answered item by item."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Final, Protocol

from gateway.clock import Clock, wall
from gateway.errors import TurnoutError
from gateway.ingest.request_lookup import Found, RequestIds
from gateway.ingest.spool import Spool
from gateway.record.decision_id import BadDecisionId, Opened, Sealer
from gateway.record.events import Reward
from gateway.record.request_ids import AMBIGUOUS
from gateway.state.base import RewardResult, StoreUnavailable
from gateway.state.store import DocumentStore, RecordStore

MAX_ITEMS: Final = 10_000
"""In one call."""
MAX_TAG_BYTES: Final = 1024
"""Bytes of the tags of one item, as JSON."""
MAX_MAGNITUDE: Final = 1e100
"""Values beyond have squares that no sum can hold."""
_MAX_CLOCK_SKEW_S: Final = 60.0
"""Seconds by which the clocks of two replicas may differ."""
_ITEMS_PER_TURN: Final = 200
"""Items checked before the event loop gets its turn."""
SEALING_KEYS: Final = "decision-id"
"""The name under which the store keeps them."""
_KEY_RELOAD_INTERVAL_S: Final = 1.0
MAX_REQUEST_IDS: Final = 1000
"""Items of one call that name a request by its id; each is looked up."""
_FIELDS: Final = frozenset({"decision_id", "metric", "value", "tags"})
_FIELDS_BY_REQUEST: Final = frozenset({"route", "request_id", "metric", "value", "tags"})


class Metric(Protocol):
    """A declared metric; `minimum` and `maximum` may be there too, and bound its values further."""

    @property
    def type(self) -> str:
        """boolean | fraction | real | count"""
        ...

    @property
    def goal(self) -> str:
        """maximize | minimize"""
        ...

    @property
    def window(self) -> float:
        """Seconds after the decision within which a value is accepted."""
        ...


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one item of a batch was not taken."""

    index: int
    code: str
    message: str


@dataclass(slots=True)
class FeedbackReport:
    """The answer to one call: what became of its items."""

    accepted: int = 0
    duplicates: int = 0
    updated: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    rewards: list[tuple[Reward, RewardResult]] = field(default_factory=list)
    """What was taken, in the order of the items. With the spool in use, all of it counts as accepted."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``POST /-/feedback``."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "updated": self.updated,
            "rejected": [{"index": r.index, "code": r.code, "message": r.message} for r in self.rejected],
        }


class RewardStore(RecordStore, DocumentStore, Protocol):
    """Rewards, and the secrets that decision ids are sealed with."""


class RewardIngest:
    """Takes reports. ``metrics`` (by name) may be replaced at any time.

    ``allowed(route, metric)`` says whether a route takes a metric (default: every one).
    ``period(route, epoch, decided)`` names the period within which the values of a sticky unit are one
    observation (default: the epoch). With a ``spool``, reports are taken while the store is away too.
    """

    def __init__(
        self,
        store: RewardStore,
        sealer: Sealer,
        *,
        metrics: Mapping[str, Metric] | None = None,
        clock: Clock = wall,
        spool: Spool | None = None,
        allowed: Callable[[str, str], bool] | None = None,
        period: Callable[[str, int, float], str] | None = None,
        request_lookup: RequestIds | None = None,
    ) -> None:
        self.request_lookup = request_lookup
        """None: items must bring their decision id."""
        self.store = store
        self.sealer = sealer
        self.metrics: Mapping[str, Metric] = metrics or {}
        self.spool = spool
        self.allowed = allowed
        self.period = period or (lambda route, epoch, decided: f"e{epoch}")
        self.counts: Counter[str] = Counter()
        """accepted | duplicate | updated | rejected: figures that only grow."""
        self._clock = clock
        self._renewed = -inf
        """When the sealing keys were last read again."""

    def open(self, text: str) -> Opened:
        """What a decision id says; raises `gateway.record.decision_id.BadDecisionId`."""
        return self.sealer.open(text)

    async def take(
        self,
        items: Sequence[object],
        *,
        may_report: Callable[[str], bool] = lambda route: True,
        made_by: Callable[[str], bool] = lambda principal: True,
    ) -> FeedbackReport:
        """Checks each item and makes those that pass durable, in order, before it returns.

        An item is a JSON object with ``decision_id``, ``metric``, ``value`` (null retracts) and perhaps
        ``tags``; with a ``request_lookup``, ``route`` and ``request_id`` may stand in for ``decision_id``.
        ``may_report(route)`` is whether the caller's key serves the route, ``made_by(principal)`` whether it
        may report about a request of that key by its id. Raises TurnoutError (body_too_large) for too many
        items, and StoreUnavailable when neither the store nor a spool takes them, or a request can't be
        looked up; then none counts as taken.
        """
        if len(items) > MAX_ITEMS:
            raise TurnoutError(
                "body_too_large", f"There are {len(items)} items; send at most {MAX_ITEMS} in one call."
            )
        report = FeedbackReport()
        named = await self._looked_up(items, may_report, made_by)
        rewards = await self._checked(items, may_report, report, named)
        results = await self._keep(rewards) if rewards else []
        report.rewards = list(zip(rewards, results, strict=True))
        tally = Counter(results)
        report.accepted, report.duplicates = tally["accepted"], tally["duplicate"]
        report.updated = tally["updated"]
        self.counts.update(results)
        self.counts["rejected"] += len(report.rejected)
        return report

    async def _checked(
        self,
        items: Sequence[object],
        may_report: Callable[[str], bool],
        report: FeedbackReport,
        named: Mapping[int, Opened | _Refused],
    ) -> list[Reward]:
        rewards = []
        now = self._clock()
        for index, item in enumerate(items):
            if index % _ITEMS_PER_TURN == _ITEMS_PER_TURN - 1:
                await asyncio.sleep(0)
            try:
                try:
                    rewards.append(self._reward(item, may_report, now, named.get(index)))
                except BadDecisionId as error:
                    if error.code != "unknown_key" or not await self._renew_keys(now):
                        raise
                    rewards.append(self._reward(item, may_report, now))
            except BadDecisionId as error:
                report.rejected.append(Rejection(index, error.code, str(error)))
            except _Refused as error:
                report.rejected.append(Rejection(index, error.code, str(error)))
        return rewards

    async def _looked_up(
        self, items: Sequence[object], may_report: Callable[[str], bool], made_by: Callable[[str], bool]
    ) -> dict[int, Opened | _Refused]:
        """Place of an item that names its request by id → what a decision id would have said, or why not."""
        places = [i for i, item in enumerate(items) if isinstance(item, Mapping) and "request_id" in item]
        if not places:
            return {}
        if self.request_lookup is None or not self.request_lookup.enabled:
            text = "Requests are not indexed by their ids; write 'record: {request_ids: true}', or send decision_id."
            return dict.fromkeys(places, _Refused("invalid", text))
        if len(places) > MAX_REQUEST_IDS:
            text = (
                f"{len(places)} items name a request_id; send at most {MAX_REQUEST_IDS} of them in one call."
            )
            raise TurnoutError("body_too_large", text)
        wanted = [_request(items[place]) for place in places]
        known = await self.request_lookup.find([pair for pair in wanted if may_report(pair[0])])
        answers = iter(known)
        found: dict[int, Opened | _Refused] = {}
        for place, (route, _) in zip(places, wanted, strict=True):
            one = next(answers) if may_report(route) else None
            if isinstance(one, Found) and made_by(one.principal):
                found[place] = one.opened
            elif one == AMBIGUOUS:
                found[place] = _Refused(
                    "ambiguous_request",
                    "Several requests of the route have this request_id; send decision_id.",
                )
            else:  # also another key's request: whether there is one is nobody else's business
                found[place] = _Refused(
                    "unknown_request",
                    "No request of yours with this request_id is known on this route within its metric's window.",
                )
        return found

    async def _renew_keys(self, now: float) -> bool:
        """Reads the sealing keys once more, at most once a second: another replica may have just added one."""
        if abs(now - self._renewed) < _KEY_RELOAD_INTERVAL_S:
            return False
        self._renewed = now
        try:
            self.sealer.renew(await self.store.secrets(SEALING_KEYS))
        except StoreUnavailable:
            return False
        return True

    async def _keep(self, rewards: list[Reward]) -> list[RewardResult]:
        if self.spool is None:
            return await self.store.reward(rewards)
        if not self.spool.waiting:
            try:
                return await self.store.reward(rewards)
            except StoreUnavailable:
                pass  # the spool is for exactly this
        await self.spool.add(rewards)
        return ["accepted"] * len(rewards)

    # One item -----------------------------------------------------------------------------------
    def _reward(
        self,
        item: object,
        may_report: Callable[[str], bool],
        now: float,
        named: Opened | _Refused | None = None,
    ) -> Reward:
        if isinstance(named, _Refused):
            raise named
        identity, name, given, tags = _parts(item)
        opened = named or self.sealer.open(identity)
        if not may_report(opened.route):
            raise _Refused(
                "forbidden", f"The key does not serve the route {opened.route!r}; use one that does."
            )
        metric = self._metric(opened.route, name)
        _check_time(opened.decided, now, metric, name)
        return Reward(
            decision=opened.decision,
            metric=name,
            value=None if given is None else _value(given, metric, name),
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
            period=self.period(opened.route, opened.epoch, opened.decided) if opened.sticky else "",
        )

    def _metric(self, route: str, name: str) -> Metric:
        metric = self.metrics.get(name)
        if metric is None:
            declared = ", ".join(sorted(self.metrics)) or "none"
            raise _Refused(
                "unknown_metric", f"No metric {name!r} is declared under 'metrics' (there: {declared})."
            )
        if self.allowed is not None and not self.allowed(route, name):
            raise _Refused("unknown_metric", f"The route {route!r} takes no values of the metric {name!r}.")
        return metric


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _request(item: object) -> tuple[str, str]:
    """Route and request id; a pair that names nothing where they are not text."""
    assert isinstance(item, Mapping)
    route, identity = item.get("route"), item.get("request_id")
    return (route, identity) if isinstance(route, str) and isinstance(identity, str) else ("", "")


def _parts(item: object) -> tuple[str, str, object, str]:
    if not isinstance(item, Mapping):
        raise _Refused("invalid", "An item is a JSON object with decision_id, metric and value.")
    by_request = "request_id" in item
    fields = _FIELDS_BY_REQUEST if by_request else _FIELDS
    unknown = item.keys() - fields
    if unknown:
        raise _Refused(
            "invalid", f"An item has no {min(unknown)!r}; its fields are {', '.join(sorted(fields))}."
        )
    identity, name = item.get("request_id" if by_request else "decision_id"), item.get("metric")
    if not isinstance(identity, str) or not isinstance(name, str) or "value" not in item:
        raise _Refused(
            "invalid", "An item needs decision_id and metric, both text, and value (null retracts)."
        )
    return identity, name, item["value"], _tags(item.get("tags"))


def _tags(given: object) -> str:
    """Canonical JSON; "" for none."""
    if given is None or given == {}:
        return ""
    plain = isinstance(given, dict) and all(isinstance(v, str | int | float | bool) for v in given.values())
    try:
        text = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        plain = False
    if not plain:
        raise _Refused("invalid", "Tags are a JSON object of texts, numbers and booleans.")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TAG_BYTES:
        raise _Refused("invalid", f"The tags are too long; send at most {MAX_TAG_BYTES} bytes.")
    return text


def _check_time(decided: float, now: float, metric: Metric, name: str) -> None:
    if now - decided > metric.window:
        raise _Refused(
            "window_closed",
            f"{name!r} is accepted for {metric.window:g} s after the decision, which was {now - decided:.0f} s "
            "ago; report sooner, or lengthen the metric's window.",
        )
    if decided - now > _MAX_CLOCK_SKEW_S:
        raise _Refused(
            "clock_skew",
            f"The decision lies {decided - now:.0f} s in the future; set the clocks of all gateways by NTP.",
        )


def _value(given: object, metric: Metric, name: str) -> float:
    if isinstance(given, bool):
        if metric.type != "boolean":
            raise _Refused("invalid", f"{name!r} is a {metric.type}; send a number.")
        return float(given)
    if not isinstance(given, int | float):
        raise _Refused("invalid", f"{name!r} is a {metric.type}; send {_EXPECTED[metric.type]}.")
    number = float(given) if abs(given) <= MAX_MAGNITUDE else inf
    if not isfinite(number):
        raise _Refused("invalid", f"The value of {name!r} is not finite, or beyond {MAX_MAGNITUDE:g}.")
    if (metric.type == "boolean" and number not in (0.0, 1.0)) or (
        metric.type == "count" and not number.is_integer()
    ):
        raise _Refused("invalid", f"{name!r} is a {metric.type}; send {_EXPECTED[metric.type]}.")
    low, high = bounds(metric)
    if not low <= number <= high:
        raise _Refused("out_of_bounds", f"{name!r} lies between {low:g} and {high:g}, not at {number:g}.")
    cap = getattr(metric, "cap", None)
    return number if cap is None else min(number, cap)


_EXPECTED: Final = {
    "boolean": "true or false (or 1 or 0)",
    "fraction": "a number from 0 to 1",
    "count": "a whole number, not negative",
    "real": "a number",
}
_OF_TYPE: Final = {"boolean": (0.0, 1.0), "fraction": (0.0, 1.0), "count": (0.0, inf), "real": (-inf, inf)}


def bounds(metric: Metric) -> tuple[float, float]:
    """The least and the largest value that a metric can have; infinite where it is not bounded."""
    low, high = _OF_TYPE[metric.type]
    minimum, maximum = getattr(metric, "minimum", None), getattr(metric, "maximum", None)
    return (low if minimum is None else max(low, minimum), high if maximum is None else min(high, maximum))


def worst(metric: Metric) -> float | None:
    """The worst value that a metric can have; None where it is not bounded on that side."""
    low, high = bounds(metric)
    cap = getattr(metric, "cap", None)
    end = low if metric.goal == "maximize" else high if cap is None else min(high, cap)
    return end if isfinite(end) else None
