"""What a store must do, as five small protocols. One contract suite (tests/contract) runs over every implementation.

Take the smallest protocol that does. The store is never on the hot path: the data plane reads a snapshot and writes to
a ring, and only the recorder, the loops and the control API come here. All methods may take their time; all raise
`StoreUnavailable` when the store can't be reached, and nothing else that the caller should handle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from gateway.record.events import Outcome, Reward, Shadowed
from gateway.record.exposures import Exposure
from gateway.record.request_ids import RequestKey
from gateway.state.base import (
    MAX_REVISIONS,
    Bucket,
    Counts,
    DecisionRecord,
    Event,
    NewEvent,
    OutcomeFilter,
    Published,
    Retention,
    Revision,
    RevisionEntry,
    RewardResult,
)
from gateway.state.folding import Grouping
from gateway.state.memory import Memory
from policies.contextual.regression import LinearSums
from policies.types import RewardSums

T = TypeVar("T")


class RecordStore(Protocol):
    """Outcomes, rewards and shadow responses, by decision."""

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Add to the record and to the aggregates, in one transaction; repeating a batch changes nothing."""
        ...

    async def reward(self, rewards: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        """Upsert on (decision, metric), in order, atomically and durably before it returns.

        The same value again is a "duplicate"; another value, or a retraction, of something reported
        is "updated" (the sums lose the old value and gain the new). Retracting what was never
        reported is "accepted" and leaves a tombstone that a later report replaces. With ``replay`` (of
        a spool), a reward whose ``time`` is before that of the stored one is a "duplicate".
        """
        ...

    async def index_requests(self, rows: Sequence[RequestKey], *, now: float, keep: float) -> None:
        """Remember for ``keep`` seconds which decision a request id belongs to; repeating changes nothing."""
        ...

    async def find_requests(self, route: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key the decision, `gateway.record.request_ids.AMBIGUOUS`, or None."""
        ...

    async def scan(self, query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
        """A bounded step through the record, newest first: the outcomes, and the decision to go on ``before``.

        None at the end. There may be less than ``limit``, even nothing, and more behind it.
        """
        ...

    async def outcomes(self, query: OutcomeFilter) -> list[Outcome]:
        """All steps of `scan` up to ``limit``: for filters that many outcomes pass."""
        ...

    async def decision(self, decision: bytes, route: str | None = None) -> DecisionRecord:
        """One decision with its rewards and shadow responses; empty if the record does not have it.

        ``route``: where it was made, if that is known: of hundreds, a shared store then asks one.
        """
        ...

    async def records(
        self,
        *,
        route: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: bytes | None = None,
        limit: int = 1000,
    ) -> list[DecisionRecord]:
        """Outcomes with their rewards and shadow responses, oldest first, those behind the decision ``after``."""
        ...

    async def first_times(self, since: Mapping[str, float]) -> dict[str, float]:
        """By route: the time of its first decision made at ``since`` or later; without the routes that have none."""
        ...

    async def exposures(self, route: str, *, since: float, until: float, below: int) -> list[Exposure]:
        """The decisions for those units whose mix is less than ``below`` (`gateway.record.exposures`)."""
        ...

    async def page_numbers(self, route: str, *, since: float) -> list[int]:
        """Numbers of the pages that may hold decisions of ``route`` made at ``since`` or later.

        A page keeps its number and its contents until an hour after its decisions.
        """
        ...

    async def page_exposures(
        self, route: str, numbers: Sequence[int], *, since: float, below: int
    ) -> list[Exposure]:
        """`exposures` made at ``since`` or later, of the pages with these numbers."""
        ...

    async def shadow_responses(
        self, route: str, shadow: str, *, since: float, limit: int = 1000, disagreeing: bool = False
    ) -> list[Shadowed]:
        """Responses of a shadow to decisions after ``since``, newest first; ``disagreeing``: only those."""
        ...

    async def metric_names(self) -> list[str]:
        """All metrics that have a reward in the aggregates, in alphabetical order."""
        ...

    async def size(self) -> int:
        """Bytes that the record takes, estimated."""
        ...

    async def prune(self, retention: Retention, *, now: float) -> bool:
        """Remove what is too old and fold old aggregates into coarser buckets, one bounded step.

        A bucket is a minute wide after two hours, an hour after two days, a day after ninety. Epochs that lie
        wholly inside one coarse bucket are counted under the last of them. True while there is more to do.
        """
        ...


class AggregateStore(Protocol):
    """Sums over outcomes and rewards, by variant; ``since`` and ``until`` bound the time of the decision."""

    async def counts(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, Counts]:
        """Counts of outcomes, by variant."""
        ...

    async def decided(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, tuple[int, int, int]]:
        """``assigned``, ``seen`` and ``errors`` of `counts`, by variant, at a fraction of the cost."""
        ...

    async def reward_sums(
        self,
        route: str,
        *,
        since: float | None = None,
        until: float | None = None,
        epoch: int | None = None,
        segments: bool = False,
    ) -> dict[tuple[str, str], RewardSums]:
        """Sums of rewards, by (variant, metric); ``segments``: of each segment (`gateway.state.units`) instead."""
        ...

    async def linear_sums(self, route: str, fingerprint: str) -> dict[tuple[str, str], LinearSums]:
        """Sums over all rewards of decisions with these features, by (variant, metric)."""
        ...

    async def linear_series(
        self, route: str, fingerprint: str, *, since: float
    ) -> list[tuple[float, dict[tuple[str, str], LinearSums]]]:
        """`linear_sums` by the time of the decision, oldest first: (start of the bucket, sums).

        A bucket is a minute wide, an hour or a day when it is older (`gateway.state.folding`).
        """
        ...

    async def rewards_version(self, route: str) -> int:
        """A number that moves with the rewards of a route; cheap to poll."""
        ...

    async def changed_cells(self, route: str, *, since: int) -> tuple[int, list[int] | None]:
        """The version of a route's aggregates, and the starts of the buckets that changed after the version ``since``.

        None instead of the starts if all may have. What is folded changes at the start of the coarse bucket.
        """
        ...

    async def series(
        self,
        route: str,
        *,
        since: float,
        until: float,
        step: float,
        epochs: Grouping = "each",
        histograms: bool = True,
        segments: bool = False,
    ) -> list[Bucket]:
        """Buckets of ``step`` seconds (a multiple of BUCKET_S), oldest first, one for each variant and epoch.

        Epochs that are read together are under the newest of them: a bandit may have an epoch each second.
        Without ``histograms``, counts have no times, at a fraction of the cost. ``segments``: as in `reward_sums`.
        """
        ...

    async def reduced_series(
        self,
        route: str,
        make: Callable[[list[Bucket]], T],
        *,
        since: float,
        until: float,
        step: float,
        epochs: Grouping = "alike",
        histograms: bool = False,
    ) -> T:
        """What ``make`` returns of the `series`, in the thread that reads and frees it, without collections.

        To free thousands of buckets on the event loop would hold it up.
        """
        ...

    async def agreement(self, route: str, *, since: float | None = None) -> dict[str, tuple[int, int, int]]:
        """By shadow: (responses, of them compared, of them agreeing)."""
        ...

    async def agreement_series(
        self, route: str, *, since: float, until: float, step: float
    ) -> list[tuple[float, str, int, int]]:
        """(start, shadow, compared, agreeing) of each bucket of ``step`` seconds, oldest first."""
        ...


class AllocationStore(Protocol):
    """What the leader publishes for every process."""

    async def publish(self, allocation: Published, ensemble: bytes = b"") -> bool:
        """Store it if its epoch is one more than the stored one (or it is the first); False if not.

        ``ensemble`` is what a bandit with features decides by, stored in the same step.
        """
        ...

    async def ensemble(self, route: str, epoch: int) -> bytes | None:
        """The ensemble published with an epoch; kept for the newest two of a route."""
        ...

    async def published(self) -> dict[str, Published]:
        """The newest allocation of each route."""
        ...

    async def allocation(self, route: str, epoch: int) -> Published | None:
        """The allocation of an epoch, if it is kept."""
        ...

    async def allocation_history(self, route: str, *, limit: int = 1000) -> list[Published]:
        """The newest ``limit`` allocations of a route, oldest first."""
        ...

    async def changed(self) -> int:
        """A number that moves whenever rewards, allocations, revisions or documents did; cheap to poll."""
        ...


class DocumentStore(Protocol):
    """JSON documents under compare-and-swap, configuration revisions, events and secrets."""

    async def load(self, kind: str, name: str) -> tuple[int, str] | None:
        """(version, JSON text), or None."""
        ...

    async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """(version, JSON text) by name, of those that exist, in one call."""
        ...

    async def save(self, kind: str, name: str, text: str, *, expected: int) -> bool:
        """Store as version ``expected + 1`` if the stored version is ``expected`` (0: none yet)."""
        ...

    async def save_with_events(
        self, kind: str, name: str, text: str, *, expected: int, events: Sequence[NewEvent]
    ) -> list[Event] | None:
        """`save`, and add ``events`` in the same transaction; None if the stored version is another one."""
        ...

    async def add_revision(
        self,
        *,
        time: float,
        author: str,
        etag: str,
        document: str,
        origin: str = "",
        after: int | None = None,
    ) -> Revision | None:
        """Store a configuration under the next number; of earlier ones keep what `gateway.state.base` allows.

        ``after``: the newest number that the caller has seen; with a newer one, nothing is stored and None returned.
        """
        ...

    async def revisions(self, *, limit: int = 20, until: int | None = None) -> list[Revision]:
        """Configurations whose text is kept, newest first; ``until``: from this number on downwards."""
        ...

    async def revision_entries(self, *, limit: int = MAX_REVISIONS) -> list[RevisionEntry]:
        """Configurations without their texts, newest first."""
        ...

    async def add_event(self, *, time: float, kind: str, route: str, data: str) -> Event:
        """Store an event (``data``: JSON) under the next id."""
        ...

    async def events(self, *, after: int = 0, limit: int = 1000, route: str | None = None) -> list[Event]:
        """Events with an id above ``after``, oldest first."""
        ...

    async def secrets(self, name: str) -> tuple[bytes, ...]:
        """32 random bytes kept under ``name``, made on first use; the same for all workers and replicas.

        The first is the one to use. There are more after a shared store has lost the first and replicas that knew it
        met others that did not: what was made with any of them is still good.
        """
        ...


class RevisionSource(Protocol):
    """Configurations that were accepted, newest first."""

    async def revisions(self, *, limit: int = 20, until: int | None = None) -> list[Revision]:
        """Those whose text is kept; ``until``: from this number on downwards."""
        ...

    async def revision_entries(self) -> Sequence[RevisionEntry]:
        """All, without their texts."""
        ...


class StartStore(RevisionSource, Protocol):
    """What a process reads before it serves: a store, or its `Memory`."""

    async def secrets(self, name: str) -> tuple[bytes, ...]: ...
    async def published(self) -> dict[str, Published]: ...
    async def ensemble(self, route: str, epoch: int) -> bytes | None: ...
    async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]: ...


class LeaseStore(Protocol):
    """Leadership among the processes that share a store."""

    async def lease(self, name: str, owner: str, *, ttl: float, now: float) -> int | None:
        """Take or renew the lease for ``ttl`` seconds; its fencing number, or None while another holds it.

        One that ends later than the clocks of two processes can differ is of a clock that was set back: it is free.
        """
        ...

    async def release(self, name: str, owner: str) -> None:
        """Give the lease back, if ``owner`` holds it."""
        ...


class EvidenceStore(RecordStore, AggregateStore, DocumentStore, Protocol):
    """What comparisons are made from: outcomes and rewards, one by one and summed, and the alarms that doubt them."""


class RateLedger(Protocol):
    """Where one bucket of a key is kept for all processes."""

    async def spend(self, key: str, rate: float, burst: float, spent: float, owner: str) -> tuple[float, int]:
        """Take ``spent`` requests out; the level left, and how many processes used the bucket in the last seconds.

        Raises StoreUnavailable.
        """
        ...


class Store(RecordStore, AggregateStore, AllocationStore, DocumentStore, LeaseStore, Protocol):
    """All five, behind one address."""

    @property
    def rates(self) -> RateLedger | None:
        """None where no other machine shares the store."""
        ...

    @property
    def address(self) -> str:
        """Without credentials."""
        ...

    @property
    def memory(self) -> Memory | None:
        """What this process has seen; None where no other machine shares the store."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...
