"""The one way in which the gateway does something again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.state.base import StoreUnavailable
from gateway.state.outage import StoreOutage

log = logging.getLogger("turnout.loops")

Step = Callable[[], Awaitable[object]]


async def periodically(
    name: str,
    step: Step,
    interval: Callable[[], float],
    outage: StoreOutage,
    *,
    delay: bool = False,
) -> None:
    """Runs ``step`` every ``interval()`` seconds until cancelled; with ``delay``, for the first time after one.

    A store that can't be reached leaves everything as it is, and no failure ends the loop.
    """
    if delay:
        await asyncio.sleep(interval())
    while True:
        try:
            await step()
            outage.worked(name)
        except StoreUnavailable as error:
            outage.failed(name, error)
        except Exception:
            log.exception("%s failed once; the loop goes on", name)
        await asyncio.sleep(interval())
