"""Which backends accept no connection when the gateway starts.

It is ready without them, since they may start later; but who mistyped a port learns it before the first request fails.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
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
    names = await _looked_up(dict.fromkeys(endpoint.host for _, endpoint in places))
    known = [place for place in places if place[1].host in names]
    free = asyncio.Semaphore(MAX_AT_ONCE)

    async def fault(host: str, port: int) -> str:
        async with free:
            return names[host] or await _fault(host, port)

    faults = await asyncio.gather(*(fault(endpoint.host, endpoint.port) for _, endpoint in known))
    found = [(*place, why) for place, why in zip(known, faults, strict=True) if why]
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
    if len(known) < len(places):
        log.warning("name resolution is slow: %d more addresses were not tried", len(places) - len(known))


async def _looked_up(hosts: Iterable[str]) -> dict[str, str]:
    """By host, "" or why its name has no address; without the names after one that takes too long.

    One after the other: the event loop has two threads for all look-ups, and one that is given up goes on in its
    thread. Many at the same time would hold up those of requests, for minutes with a slow resolver.
    """
    found: dict[str, str] = {}
    slow = False
    for host in hosts:
        if _is_address(host):
            found[host] = ""
        elif not slow:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
                found[host] = ""
            except TimeoutError:
                slow, found[host] = True, f"its name has no address within {TIMEOUT_S:g} s"
            except (OSError, UnicodeError) as error:
                found[host] = _reason(error)
    return found


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _fault(host: str, port: int) -> str:
    """Why no connection is made; "" if one is."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no response within {TIMEOUT_S:g} s"
    except (OSError, UnicodeError) as error:
        return _reason(error)
    writer.close()
    return ""


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)
