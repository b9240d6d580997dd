"""What a store must do. One contract suite (tests/contract) runs over every implementation.

The store is never on the hot path: the data plane reads a snapshot and writes to a ring, and only
the recorder, the loops and the control API come here. All methods are coroutines that may take
their time; all raise `StoreUnavailable` when the store can't be reached, and nothing else that the
caller should handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal, Protocol

from gateway.record.events import Outcome, Reward, Shadowed
from gateway.record.exposures import Sighting
from gateway.record.request_ids import RequestKey
from policies.allocation.model import RewardSums
from policies.contextual.regression import LinearSums

BUCKET = 10.0
"""Seconds of one bucket of the aggregates: every figure over time is a sum of whole buckets."""
SCAN_PAGES = 64
"""Pages of the record that one step of `Store.scan` reads, about; a page has at most 1,024 outcomes."""


class StoreUnavailable(Exception):
    """The store can't be reached or can't be written; the message says why and what to do."""


@dataclass(slots=True)
class Counts:
    """Additive counts over outcomes of one variant (forced ones excluded).

    ``latency`` and ``gateway`` map a log-scale bucket (`gateway.record.histogram`) to a count, in
    milliseconds of ``total_ms`` and ``gateway_ms`` of the answers this variant served.
    """

    assigned: int = 0
    served: int = 0
    errors: int = 0
    fallbacks: int = 0
    """Assigned to this variant and answered by another."""
    latency: dict[int, int] = field(default_factory=dict)
    gateway: dict[int, int] = field(default_factory=dict)
    expected: float = 0.0
    """Σ over every decision of the route of this variant's probability: what `assigned` should be near."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of one variant: what `Store.series` returns."""

    start: float
    variant: str
    epoch: int
    counts: Counts
    rewards: Mapping[str, RewardSums]


@dataclass(frozen=True, slots=True)
class Published:
    """The allocation of a route, as the leader published it."""

    route: str
    epoch: int
    probabilities: Mapping[str, float]
    bounds: tuple[float, ...]
    owners: tuple[int, ...]
    reason: str
    """Why it came about: "config", "posterior", "stage", "manual", ..."""
    time: float
    evidence: str = ""
    """JSON: what the policy knew (posterior parameters, verdicts) when it made this allocation."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A configuration as it was accepted."""

    revision: int
    time: float
    author: str
    etag: str
    document: str
    """The YAML text."""
    origin: str = ""
    """Where it came from: the host and path of a file, or the call of the API."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling: allocation changes, rollout steps, ejections, config revisions, alarms."""

    id: int
    time: float
    kind: str
    route: str
    """"" when it concerns no route."""
    data: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class OutcomeFilter:
    """Which outcomes to list; newest first. ``before`` is the decision to continue behind."""

    route: str | None = None
    variant: str | None = None
    status: int | None = None
    errors_only: bool = False
    since: float | None = None
    until: float | None = None
    before: bytes | None = None
    limit: int = 100


_DAY = 86_400.0
MIN_OUTCOMES = 600.0
"""Seconds for which outcomes are kept, however large they are."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many seconds each part of the record is kept.

    ``rewards`` must be longer than the longest window of a metric: a report that comes again after
    its first was pruned would count twice.
    """

    outcomes: float = 30 * _DAY
    """The shadows' answers too."""
    rewards: float = 90 * _DAY
    events: float = 400 * _DAY
    allocations: float = 90 * _DAY
    """The newest of a route is always kept."""
    aggregates: float = 800 * _DAY
    max_bytes: float = inf
    """Of `Store.size`: beyond it the oldest outcomes, shadow responses and rewards go before their time."""
    min_rewards: float = 7 * _DAY
    """Seconds for which rewards are kept even then: the longest window of a metric."""

    def shortened(self, now: float, *, outcomes: float | None, rewards: float | None) -> Retention:
        """Such that the oldest go: outcomes up to the one time, or rewards up to the other, whichever is earlier.

        The same object where all are too young to go.
        """
        times = []
        if outcomes is not None and now - outcomes > MIN_OUTCOMES:
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
    """All that is known of one decision."""

    outcome: Outcome | None
    rewards: tuple[Reward, ...]
    shadows: tuple[Shadowed, ...]


RewardResult = Literal["accepted", "duplicate", "updated"]


class RateLedger(Protocol):
    """Where one bucket of a key is kept for all processes."""

    async def spend(self, key: str, rate: float, burst: float, spent: float, owner: str) -> tuple[float, int]:
        """Takes ``spent`` requests out; the level left, and how many processes used the bucket in the last seconds.

        Raises StoreUnavailable.
        """
        ...


class Store(Protocol):
    @property
    def rates(self) -> RateLedger | None:
        """None where no other machine shares the store."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def secrets(self, name: str) -> tuple[bytes, ...]:
        """32 random bytes kept under ``name``, made on first use; the same for all workers and replicas.

        The first is the one to use. There are more after a shared store has lost the first and replicas that knew it
        met others that did not: what was made with any of them is still good.
        """
        ...

    # The record ---------------------------------------------------------------------------------
    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Adds to the record and to the aggregates, in one transaction. Repeating a batch changes nothing."""
        ...

    async def index_requests(self, rows: Sequence[RequestKey], *, now: float, keep: float) -> None:
        """Remember for ``keep`` seconds which decision a request id belongs to; repeating changes nothing."""
        ...

    async def find_requests(self, route: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key the decision, `gateway.record.request_ids.AMBIGUOUS`, or None."""
        ...

    async def reward(self, rewards: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        """Upserts on (decision, metric), in order, atomically and durably before it returns.

        The same value again is a "duplicate"; another value, or a retraction, of something reported
        is "updated" (the sums lose the old value and gain the new). Retracting what was never
        reported is "accepted" and leaves a tombstone that a later report replaces. With ``replay`` (of
        a spool), a reward whose ``time`` is before that of the stored one is a "duplicate".
        """
        ...

    async def scan(self, query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
        """A bounded step through the record, newest first: what was found, and the decision to go on ``before``.

        None at the end. There may be less than ``limit``, even nothing, and more behind it.
        """
        ...

    async def outcomes(self, query: OutcomeFilter) -> list[Outcome]:
        """All steps of `scan` up to ``limit``: for filters that many outcomes pass."""
        ...

    async def decision(self, decision: bytes) -> DecisionRecord: ...
    async def records(
        self,
        *,
        route: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: bytes | None = None,
        limit: int = 1000,
    ) -> list[DecisionRecord]:
        """Outcomes with their rewards and shadows, oldest first, those behind the decision ``after``."""
        ...

    async def sightings(self, route: str, *, since: float, until: float, below: int) -> list[Sighting]:
        """The decisions for those units whose mix is less than ``below`` (`gateway.record.exposures`)."""
        ...

    async def disagreements(
        self, route: str, shadow: str, *, since: float, limit: int = 1000
    ) -> list[Shadowed]:
        """Responses of a shadow that disagree, to decisions after ``since``, newest first."""
        ...

    async def metric_names(self) -> list[str]:
        """Of all metrics that the aggregates hold a value of, in alphabetical order."""
        ...

    async def size(self) -> int:
        """Bytes that the record takes, about."""
        ...

    async def prune(self, retention: Retention, *, now: float) -> bool:
        """One bounded step of forgetting what is too old and of folding old aggregates into coarser
        buckets (a minute after two hours, an hour after two days, a day after ninety). True while
        there is more to do. Epochs that lie wholly inside one coarse bucket are counted under the
        last of them.
        """
        ...

    # Aggregates ---------------------------------------------------------------------------------
    async def counts(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, Counts]:
        """By variant."""
        ...

    async def decided(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, tuple[int, int]]:
        """``assigned`` and ``errors`` of `counts`, by variant; without the histograms, at a fraction of the cost."""
        ...

    async def reward_sums(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[tuple[str, str], RewardSums]:
        """By (variant, metric); since/until bound the time of the decision."""
        ...

    async def linear_sums(self, route: str, fingerprint: str) -> dict[tuple[str, str], LinearSums]:
        """Over all rewards of decisions with these features, by (variant, metric)."""
        ...

    async def linear_series(
        self, route: str, fingerprint: str, *, since: float
    ) -> list[tuple[float, dict[tuple[str, str], LinearSums]]]:
        """The same by the time of the decision, oldest first: (start of the bucket, sums). A bucket is a
        minute wide at first, an hour or a day when it is older (`gateway.state.folding`)."""
        ...

    async def series(self, route: str, *, since: float, until: float, step: float) -> list[Bucket]:
        """Buckets of ``step`` seconds (a multiple of BUCKET), oldest first, one a variant and epoch."""
        ...

    async def agreement(self, route: str, *, since: float | None = None) -> dict[str, tuple[int, int, int]]:
        """By shadow: (answers, of them compared, of them agreeing)."""
        ...

    async def changed(self) -> int:
        """A number that moves whenever rewards, allocations, revisions or rollouts did; cheap to poll."""
        ...

    # Allocations --------------------------------------------------------------------------------
    async def publish(self, allocation: Published, ensemble: bytes = b"") -> bool:
        """Stores it if its epoch is one more than the stored one (or it is the first); else False.

        ``ensemble`` is what a bandit with features decides by, stored in the same step.
        """
        ...

    async def ensemble(self, route: str, epoch: int) -> bytes | None:
        """What was published with an epoch; kept for the newest two of a route."""
        ...

    async def published(self) -> dict[str, Published]:
        """The newest of each route."""
        ...

    async def allocation_history(self, route: str, *, limit: int = 1000) -> list[Published]:
        """Oldest first."""
        ...

    # Documents kept under compare-and-swap (rollout states and the like) ------------------------
    async def load(self, kind: str, name: str) -> tuple[int, str] | None:
        """(version, JSON text) or None."""
        ...

    async def save(self, kind: str, name: str, text: str, *, expected: int) -> bool:
        """Stores as version ``expected + 1`` if the stored version is ``expected`` (0: none yet)."""
        ...

    # Revisions and events -----------------------------------------------------------------------
    async def add_revision(
        self, *, time: float, author: str, etag: str, document: str, origin: str = ""
    ) -> Revision: ...
    async def revisions(self, *, limit: int = 100) -> list[Revision]:
        """Newest first."""
        ...

    async def add_event(self, *, time: float, kind: str, route: str, data: str) -> Event: ...
    async def events(self, *, after: int = 0, limit: int = 1000, route: str | None = None) -> list[Event]:
        """Oldest first, those with an id above ``after``."""
        ...

    # Leadership ---------------------------------------------------------------------------------
    async def lease(self, name: str, owner: str, *, ttl: float, now: float) -> int | None:
        """Takes or renews the lease; its fencing number, or None while another holds it."""
        ...

    async def release(self, name: str, owner: str) -> None: ...
