"""The values that stores take and return; `gateway.state.store` has the methods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from typing import Any, Final, Literal, TypeVar

from gateway.record.events import Outcome, Reward, Shadowed
from policies.types import RewardSums

BUCKET_S = 10.0
"""Seconds of one bucket of the aggregates: every figure over time is a sum of whole buckets."""
SCAN_PAGES = 64
"""Pages of the record that one step of `RecordStore.scan` reads, approximately; a page has at most 1,024 outcomes."""


MAX_CLOCK_SKEW_S: Final = 600.0
"""Between the clocks of replicas, or of one before and after it was set; beyond it a time is not believed."""

Stored = TypeVar("Stored")


def of_stored(kind: type[Stored], data: Mapping[str, Any]) -> Stored:
    """Make a dataclass of its stored fields, without those that a later release has added.

    Replicas of two releases share a store during an upgrade. Raises TypeError if a field is missing.
    """
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: data[name] for name in names if name in data})


class StoreUnavailable(Exception):
    """The store can't be reached or can't be written; the message says why and what to do."""


class Unconfirmed(StoreUnavailable):
    """The store became unavailable during a change: whether it was made is not known."""


@contextmanager
def unconfirmed() -> Iterator[None]:
    """Mark a change: a store that becomes unavailable within the block may have made it.

    Raises:
        Unconfirmed: In place of StoreUnavailable.
    """
    try:
        yield
    except StoreUnavailable as error:
        raise Unconfirmed(*error.args) from error


@dataclass(slots=True)
class Counts:
    """Additive counts over outcomes of one variant (forced ones excluded).

    ``latency`` and ``gateway`` map a log-scale bucket (`gateway.record.histogram`) to a count, in
    milliseconds of ``total_ms`` and ``gateway_ms`` of the responses that this variant served.
    """

    assigned: int = 0
    served: int = 0
    errors: int = 0
    fallbacks: int = 0
    """Assigned to this variant and served by another."""
    latency: dict[int, int] = field(default_factory=dict)
    gateway: dict[int, int] = field(default_factory=dict)
    expected: float = 0.0
    """Σ over every decision of the route of this variant's probability: what `assigned` should be near."""
    unseen: int = 0
    """Of `assigned`, those whose response the gateway does not see (`POST /-/decide`)."""

    @property
    def seen(self) -> int:
        """Assignments whose response the gateway sees: what errors are counted among."""
        return self.assigned - self.unseen


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of time of one variant (`AggregateStore.series`); ``start`` in seconds since the epoch."""

    start: float
    variant: str
    epoch: int
    counts: Counts
    rewards: Mapping[str, RewardSums]


@dataclass(frozen=True, slots=True)
class Published:
    """An allocation of a route, as the leader published it; ``time`` in seconds since the epoch."""

    route: str
    epoch: int
    probabilities: Mapping[str, float]
    bounds: tuple[float, ...]
    owners: tuple[int, ...]
    reason: str
    """What caused it: "config", "posterior", "stage", "manual", ..."""
    time: float
    evidence: str = ""
    """JSON: the posterior parameters or verdicts that it follows from."""


MAX_REVISION_TEXTS: Final = 200
"""Revisions whose text a store keeps: the newest ones can be restored, compared, and put in force at a start."""
MAX_REVISIONS: Final = 1000
"""Revisions that a store lists: a file with the text of one is an older copy, and not an edit."""


@dataclass(frozen=True, slots=True)
class RevisionEntry:
    """A configuration that was accepted, without its text; ``time`` in seconds since the epoch."""

    revision: int
    time: float
    author: str
    etag: str
    origin: str = ""
    """Its source: the host and path of a file, or the API call."""

    def with_text(self, text: str) -> Revision:
        return Revision(self.revision, self.time, self.author, self.etag, self.origin, document=text)


@dataclass(frozen=True, slots=True)
class Revision(RevisionEntry):
    """A configuration that was accepted, with its YAML text."""

    document: str = field(kw_only=True)


ALLOCATION: Final = "allocation"
"""The kind of the events that tell of a new allocation."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An `Event` that no store has numbered yet."""

    time: float
    kind: str
    route: str
    data: str


def _finite(text: str) -> float | None:
    # JSON has no others, so neither streams nor webhooks would get past the event.
    found = float(text)
    return found if isfinite(found) else None


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the event log: an allocation, a rollout step, an ejection, a configuration, an alarm."""

    id: int
    time: float
    kind: str
    route: str
    """"" if it concerns the gateway as a whole."""
    data: str
    """JSON."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """``data`` as an object, with None for NaN and infinity; empty if it is damaged."""
        try:
            found = json.loads(self.data, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class OutcomeFilter:
    """The outcomes to list, newest first; ``before`` is the decision to continue from."""

    route: str | None = None
    variant: str | None = None
    status: int | None = None
    errors_only: bool = False
    error: str | None = None
    """The exact error of the assigned variant."""
    fallback: bool | None = None
    forced: bool | None = None
    min_ms: float | None = None
    """Of ``total_ms``."""
    unit: int | None = None
    request_id: str | None = None
    principal: str | None = None
    since: float | None = None
    until: float | None = None
    before: bytes | None = None
    limit: int = 100


_DAY = 86_400.0
MIN_OUTCOME_AGE_S = 600.0
"""Seconds for which outcomes are kept, even if the record is too large."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds for which each part of the record is kept.

    ``rewards`` must be longer than the longest window of a metric: a report that comes again after
    its first was pruned would count twice.
    """

    outcomes: float = 30 * _DAY
    """Shadow responses too."""
    rewards: float = 90 * _DAY
    events: float = 400 * _DAY
    events_with_allocations: int = 20_000
    """The newest ones, of all kinds: a bandit may publish an allocation each second. Of older ones, allocations are
    not kept."""
    allocations: float = 90 * _DAY
    """The newest of a route is always kept."""
    allocations_per_route: int = 5_000
    """The newest ones: a bandit may publish one each second."""
    aggregates: float = 800 * _DAY
    max_bytes: float = inf
    """Of `Store.size`: beyond it the oldest outcomes, shadow responses and rewards go before their time."""
    min_rewards: float = 7 * _DAY
    """Seconds for which rewards are kept even then: the longest window of a metric."""

    def shortened(self, now: float, *, outcomes: float | None, rewards: float | None) -> Retention:
        """A retention that removes outcomes up to the one time, or rewards up to the other, whichever is earlier.

        The same object if both are younger than their minimum.
        """
        times = []
        if outcomes is not None and now - outcomes > MIN_OUTCOME_AGE_S:
            times.append(outcomes)
        if rewards is not None and now - rewards > self.min_rewards:
            times.append(rewards)
        if not times:
            return self
        age = now - min(times) - 1e-3
        return replace(
            self, outcomes=min(self.outcomes, age), rewards=min(self.rewards, max(age, self.min_rewards))
        )


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision with its rewards and shadow responses."""

    outcome: Outcome | None
    rewards: tuple[Reward, ...]
    shadows: tuple[Shadowed, ...]


RewardResult = Literal["accepted", "duplicate", "updated"]
