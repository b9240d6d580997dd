"""The rate of a key over all processes that serve it.

The data plane never waits: each process counts in a copy of the key's bucket, and every `RATES_S` the copies that
were used are settled with one bucket in the store. Between two of these a process spends at most its part of what
was left. While the store is away each goes on with its part of the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from gateway.auth.principal import Bucket
from gateway.state.store import RateLedger

RATES_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Rates:
    """The buckets of one process."""

    ledger: RateLedger
    owner: str
    buckets: Callable[[], Mapping[tuple[str, float], Bucket]]
    """By key id and rate, as they are in force."""
    workers: int
    """Processes that may serve any key."""

    async def step(self) -> None:
        """Settles what was used since the last step. Raises StoreUnavailable."""
        used = [(key, bucket) for (key, _), bucket in self.buckets().items() if bucket.spent or bucket.short]
        for key, bucket in used:
            spent, bucket.spent, bucket.short = bucket.spent, 0.0, False
            level, processes = await self.ledger.spend(key, bucket.rate, bucket.burst, spent, self.owner)
            bucket.settle(level - bucket.spent, 1.0 / max(processes, self.workers), perf_counter())
