"""Which backends accept no connection when the gateway starts.

It is ready without them, since they may start later; but who mistyped a port learns it before the first request fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from gateway.transport.balancer import Backend

log = logging.getLogger("turnout.start")

TIMEOUT_S: Final = 3.0
MAX_AT_ONCE: Final = 32
"""Connections that are tried at the same time."""
MAX_LINES: Final = 20


async def warn_unreachable(backends: Mapping[str, Backend]) -> None:
    """Log each address of ``backends``, by name, that accepts no connection."""
    places = [(name, address.endpoint) for name, backend in backends.items() for address in backend.addresses]
    free = asyncio.Semaphore(MAX_AT_ONCE)

    async def fault(host: str, port: int) -> str:
        async with free:
            return await _fault(host, port)

    faults = await asyncio.gather(*(fault(endpoint.host, endpoint.port) for _, endpoint in places))
    found = [(*place, why) for place, why in zip(places, faults, strict=True) if why]
    for name, endpoint, why in found[:MAX_LINES]:
        log.warning(
            "backend %s: %s accepts no connection (%s); requests to it fail until it does, see 'backends.%s'",
            name,
            endpoint,
            why,
            name,
        )
    if len(found) > MAX_LINES:
        log.warning("%d more addresses accept no connection", len(found) - MAX_LINES)


async def _fault(host: str, port: int) -> str:
    """Why no connection is made; "" if one is."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no response within {TIMEOUT_S:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    writer.close()
    return ""
