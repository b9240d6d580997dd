"""The one way in which the gateway repeats work, and takes it to every route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Final

from gateway.state.base import StoreUnavailable
from gateway.state.outage import StoreOutage

log = logging.getLogger("turnout.loops")

MAX_READ_SHARE: Final = 0.05
"""Reading what grows with the history of a route takes at most this part of the time."""
REMINDER_S: Final = 60.0
"""Seconds between two traces of one failure: a step may be taken each second."""
STORE_RETRY_S: Final = 5.0
"""Seconds between two attempts while the store is unavailable, where ``interval`` is longer."""
Step = Callable[[], Awaitable[object]]


class Failures:
    """Logs failures with their traces, one that is repeated once in `REMINDER_S`."""

    def __init__(self) -> None:
        self._logged: dict[str, tuple[str, float]] = {}

    def log(self, text: str, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        last, at = self._logged.get(text, ("", -inf))
        if repr(error) != last or now - at >= REMINDER_S:
            self._logged[text] = repr(error), now
            log.error("%s", text, exc_info=error)


async def periodically(
    name: str,
    step: Step,
    interval: Callable[[], float],
    outage: StoreOutage,
    *,
    delay: bool = False,
) -> None:
    """Runs ``step`` every ``interval()`` seconds until cancelled; with ``delay``, for the first time after one.

    A store that can't be reached leaves everything as it is, and no failure ends the loop. It is tried again after
    `STORE_RETRY_S` at most: pages say that the store is unavailable as long as one loop fails.
    """
    failures = Failures()
    if delay:
        await asyncio.sleep(interval())
    while True:
        rest = interval()
        try:
            await step()
            outage.worked(name)
        except StoreUnavailable as error:
            outage.failed(name, error)
            rest = min(rest, STORE_RETRY_S)
        except Exception as error:  # noqa: BLE001  whatever it is, the loop goes on
            failures.log(f"{name} failed; it will be repeated", error)
        await asyncio.sleep(rest)


async def each_route(
    work: str, names: Iterable[str], step: Callable[[str], Awaitable[object]], failures: Failures
) -> None:
    """Takes a step of ``work`` for each route, one at a time: requests come in between.

    A failure on one route does not hold up the others. Raises StoreUnavailable.
    """
    for name in tuple(names):
        await asyncio.sleep(0)
        try:
            await step(name)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the loop goes on
            failures.log(f"{work} of the route {name} failed; it stays as it is", error)
