"""How often one client may fail to log in to the dashboard."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from starlette.requests import Request

from gateway.auth.principal import Bucket
from gateway.errors import TurnoutError

FAILURES_PER_S: Final = 1 / 6
MAX_FAILURES: Final = 10
MAX_CLIENTS: Final = 1024


class LoginLimit:
    """A token bucket of failures for each client: ten, and one more every six seconds."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def check(self, client: str) -> None:
        """Raises rate_limited if ``client`` has used up its failures."""
        bucket = self._buckets.get(client)
        wait = bucket.wait(perf_counter()) if bucket is not None else 0.0
        if wait > 0:
            raise TurnoutError(
                "rate_limited", "Too many logins failed; wait as Retry-After says.", retry_after=wait
            )

    def failed(self, client: str) -> None:
        """Count a failed login of ``client``."""
        bucket = self._buckets.get(client)
        if bucket is None:
            if len(self._buckets) >= MAX_CLIENTS:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[client] = Bucket(FAILURES_PER_S, MAX_FAILURES)
        bucket.take(perf_counter())


def client_of(request: Request, trusted_proxies: Sequence[str]) -> str:
    """Return the client's address behind trusted proxies; of IPv6 the /64, all of which one client may use."""
    networks = [ipaddress.ip_network(network) for network in trusted_proxies]
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    hops = [hop.strip() for hop in forwarded if hop.strip()]
    hops.append(request.client.host if request.client is not None else "")
    found = ""
    for hop in reversed(hops):
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            return found
        # An IPv4 client of a socket or proxy for both: all would share the one /64.
        address = getattr(address, "ipv4_mapped", None) or address
        found = (
            str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
        )
        if not any(address in network for network in networks):
            return found
    return found
