"""Comparing a shadow's response with the primary's outside the event loop.

Comparisons wait for a moment and are then done together by a background thread: that takes less of the processor
than one at a time, and a client's request waits at most until the thread is next asked to stand back. A JSON parser
does not stand back within one document, so large responses go to another process. A bounded number waits; further
ones are not compared.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.internal_errors import INTERNAL_ERRORS
from gateway.runtime.side_process import SideProcess
from policies.comparison.bodies import Comparison, Response
from policies.comparison.compare import Agreement, compare

MAX_THREAD_BYTES: Final = 64 * 1024
"""Of both bodies together; larger ones are compared in another process. Parsing as much takes under a millisecond."""
MAX_WAITING: Final = 64
"""Comparisons that wait for the thread."""
MAX_WAITING_LARGE: Final = 32
"""Comparisons that wait for the other process."""
BATCH_INTERVAL_S: Final = 0.05

LIMIT_KEY: Final = "limits.shadow.answer"

UNCOMPARED: Final = {
    "no_variant": "no variant served the client",
    "cut_short": "the primary's response was cut short",
    "too_large": f"the primary's response is larger than {LIMIT_KEY}",
    "queue_full": "too many comparisons wait",
    "shutdown": "the gateway ended",
}
"""Why responses are not compared, by the reason that is counted."""
_REASONS: Final = {detail: reason for reason, detail in UNCOMPARED.items()}

Done = Callable[[Agreement], None]


def uncompared(reason: str) -> Agreement:
    """What is said of responses that were not compared; ``reason``: a key of `UNCOMPARED`."""
    return Agreement("not_comparable", "", detail=UNCOMPARED[reason])


def reason_of(found: Agreement) -> str:
    """Why nothing was compared, for counting; "" if it was."""
    return _REASONS.get(found.detail, "unreadable") if found.agrees is None else ""


def comparable(lines: Sequence[bytes], body: bytes) -> Response:
    """A response as `policies.comparison` takes it, from its field lines."""
    found = {b"content-type": "", b"inference-header-content-length": "", b"content-encoding": ""}
    for line in lines:
        name, _, value = line.partition(b":")
        key = name.lower()
        if key in found:
            found[key] = value.strip().decode("latin-1")
    return Response(body, *found.values())


class Pair(NamedTuple):
    """Two responses to compare."""

    primary: Response
    shadow: Response
    how: Comparison


class Comparer:
    """See the module."""

    def __init__(self) -> None:
        self._large = SideProcess[Agreement](MAX_WAITING_LARGE)
        self._waiting: list[tuple[Pair, Done]] = []
        self._scheduled = False
        """Whether a batch is due or in progress."""
        self._closed = False

    @property
    def pending(self) -> bool:
        """Whether the thread has comparisons to do."""
        return self._scheduled

    def compare(self, status: int, other_status: int, pair: Pair, done: Done) -> None:
        """Calls ``done`` with what the comparison says, now or later."""
        if status != other_status:
            done(_statuses(status, other_status))
        elif pair.primary == pair.shadow and not pair.primary.is_event_stream:
            done(Agreement("agrees", "bytes", difference=0.0))
        elif self._closed:
            done(uncompared("shutdown"))
        elif len(pair.primary.body) + len(pair.shadow.body) > MAX_THREAD_BYTES:
            running = self._large.submit(_compared, (pair,), done, lambda reason: done(_failed(reason)))
            if running is not None:
                running.add_done_callback(
                    lambda ended: done(uncompared("shutdown")) if ended.cancelled() else None
                )
        elif len(self._waiting) >= MAX_WAITING:
            done(uncompared("queue_full"))
        else:
            self._waiting.append((pair, done))
            self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(BATCH_INTERVAL_S, self._begin)

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            running = asyncio.get_running_loop().run_in_executor(
                None, _compare_all, [pair for pair, _ in batch]
            )
        except RuntimeError as error:  # no thread can be started
            self._scheduled = False
            for _, done in batch:
                done(_failed(str(error)))
            return
        running.add_done_callback(lambda ended: self._end(batch, ended))

    def _end(self, batch: list[tuple[Pair, Done]], ended: asyncio.Future[list[Agreement]]) -> None:
        self._scheduled = False
        if not ended.cancelled():
            for (_, done), found in zip(batch, ended.result(), strict=True):
                done(found)
        self._schedule()

    def close(self) -> None:
        """Drops what waits, and ends the other process."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            done(uncompared("shutdown"))
        self._large.close()


def _compare_all(pairs: list[Pair]) -> list[Agreement]:
    return [_compared(pair) for pair in pairs]


def _compared(pair: Pair) -> Agreement:
    """`compare`, of which the client must not feel a fault: what one cannot take is not comparable."""
    try:
        return compare(*pair)
    except Exception as error:  # noqa: BLE001 - no comparison is worth a request
        INTERNAL_ERRORS.report(error)
        return Agreement("not_comparable", "", detail="an error inside the gateway; see its log")


def _failed(reason: str) -> Agreement:
    """What is said where neither thread nor process could take it. ``reason``: their own words."""
    if reason == "too many wait":
        return uncompared("queue_full")
    return Agreement("not_comparable", "", detail=f"the responses could not be compared: {reason}")


def _statuses(status: int, other: int) -> Agreement:
    first = [{"where": "status", "primary": str(status), "shadow": str(other)}]
    return Agreement("differs", "status", detail=json.dumps({"differences": 1, "first": first}))
