"""The reward buffer, without io: what waits, what is in flight, what was refused, and when to try again."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from turnout.errors import BufferFull, Rejection, RewardsRejected

log = logging.getLogger("turnout.client")

Item = dict[str, Any]
"""One element of ``items`` in the body of ``POST /-/feedback``."""

BATCH_ITEMS: Final = 500
FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 10.0
RETRIED_STATUSES: Final = frozenset({408, 425, 429})
"""In addition to every 5xx: the gateway restarts, drains, is too busy, or its store is away."""


class Outbox:
    """A bounded buffer of rewards and the fate of each batch.

    The drivers (a thread, a task) call `take`, send the batch, and pass what came back to `settle`. A batch
    stays at the head of the buffer until the gateway has confirmed it; repeating one is safe, because the
    gateway counts the same value for the same decision and metric once. Not thread-safe.
    """

    def __init__(self, capacity: int, on_rejected: Callable[[Rejection], None] | None = None) -> None:
        """``capacity``: rewards at most. Raises ValueError if it is not a positive integer."""
        if not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"buffer: {capacity!r} is not a number of rewards; write 1 or more")
        self.capacity = capacity
        self.rejected: list[Rejection] = []
        """Refused since the last `raise_rejected`."""
        self._on_rejected = on_rejected
        self._waiting: deque[Item] = deque()
        self._failures = 0

    def __len__(self) -> int:
        """Rewards that the gateway has not confirmed."""
        return len(self._waiting)

    def put(self, item: Item) -> None:
        """Add a reward. Raises BufferFull, and TypeError or ValueError if it can't be written as JSON."""
        if len(self._waiting) >= self.capacity:
            raise BufferFull(
                f"{self.capacity} rewards wait for the gateway; it is away, or slower than they are reported"
            )
        # As httpx will write it: an error here is its caller's, and one in the sender would end all reports.
        json.dumps(item, ensure_ascii=False, allow_nan=False).encode()
        self._waiting.append(item)

    def take(self) -> list[Item]:
        """The next batch, oldest first; it stays in the buffer until it is settled."""
        return [self._waiting[i] for i in range(min(BATCH_ITEMS, len(self._waiting)))]

    def settle(self, count: int, status: int, body: bytes, retry_after: str | None) -> float:
        """Remove the first ``count`` rewards, or keep them for another try.

        ``status`` is 0 where no response came. Returns the seconds to wait before the next batch.
        """
        if status == 0 or status >= 500 or status in RETRIED_STATUSES:
            self._failures += 1
            return self._delay(retry_after)
        self._failures = 0
        batch = [self._waiting.popleft() for _ in range(count)]
        rejections = _rejections(batch, status, body)
        for (code, message), number in Counter((r.code, r.message) for r in rejections).items():
            log.warning("rewards refused: %d: %s: %s", number, code, message)
        for rejection in rejections:
            self.rejected.append(rejection)
            del self.rejected[: -self.capacity]
            if self._on_rejected is not None:
                try:
                    self._on_rejected(rejection)
                except Exception:
                    log.exception("on_rejected has failed")
        return 0.0

    def raise_rejected(self) -> None:
        """Raise RewardsRejected if the gateway refused some since the last call."""
        if self.rejected:
            found, self.rejected = self.rejected, []
            raise RewardsRejected(found)

    def _delay(self, retry_after: str | None) -> float:
        """Seconds: exponential with full jitter, and never less than the gateway asked for."""
        # Python raises OverflowError at 2.0 ** 1024, which an outage of an hour or two reaches.
        bound = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._failures - 1, 60))
        asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        return max(min(asked, MAX_DELAY_S), random.uniform(0.0, bound))


def batches(items: Iterable[Item]) -> list[list[Item]]:
    """``items`` in parts that one call takes, whatever their tags; at least one."""
    whole = list(items)
    return [whole[at : at + BATCH_ITEMS] for at in range(0, max(1, len(whole)), BATCH_ITEMS)]


def reported(parts: Sequence[list[Item]], documents: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The counts in the responses to the `batches` of a report. Raises RewardsRejected."""
    rejected = [
        Rejection(part[r["index"]], r["code"], r["message"])
        for part, document in zip(parts, documents, strict=True)
        for r in document["rejected"]
    ]
    if rejected:
        raise RewardsRejected(rejected)
    return {name: sum(d[name] for d in documents) for name in ("accepted", "duplicates", "updated")}


def _rejections(batch: list[Item], status: int, body: bytes) -> list[Rejection]:
    """What the gateway refused: single items of a 200, the whole batch of any other status."""
    # Another server than a gateway may respond, with anything: an error here would end the sender.
    try:
        document = json.loads(body)
        if status == 200:
            found = document["rejected"]
            return [Rejection(batch[r["index"]], str(r["code"]), str(r["message"])) for r in found]
        code, message = str(document["error"]["code"]), str(document["error"]["message"])
        return [Rejection(item, code, message) for item in batch]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        message = f"the response with status {status} is not one of Turnout's; is the URL a gateway's?"
        return [Rejection(item, "unexpected_response", message) for item in batch]
