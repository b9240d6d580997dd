"""Who may make a call of the control API.

A credential is a header (API key or token), the dashboard's cookie, or, without ``auth`` in the
configuration, simply being on the loopback interface. The last two are sent along by a browser
whatever page makes the request, so for them a change must come from a page of our own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from gateway.control.context import Context
from gateway.control.session import Sessions
from gateway.dataplane.auth import LOCAL, Principal
from gateway.errors import TurnoutError

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip")


def peer(request: Request) -> str | None:
    """The client's address; None where a proxy stands between, so that its loopback is not taken for ours."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return None
    return request.client.host


def on_loopback(request: Request) -> bool:
    try:
        address = ipaddress.ip_address(peer(request) or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def has_header(headers: Mapping[str, str]) -> bool:
    return "authorization" in headers or "x-api-key" in headers


async def identify(request: Request, context: Context, sessions: Sessions) -> Principal:
    """The principal of ``request``. Raises unauthenticated, forbidden (another site's page), rate_limited."""
    if has_header(request.headers):
        principal = context.principal(request.headers, peer(request))
    else:
        principal = await _ambient(request, context, sessions)
    if principal.bucket is not None:
        wait = principal.bucket.take(perf_counter())
        if wait > 0:
            raise TurnoutError("rate_limited", retry_after=wait)
    return principal


async def _ambient(request: Request, context: Context, sessions: Sessions) -> Principal:
    if request.method not in _SAFE and not same_site(request):
        raise TurnoutError(
            "forbidden", "A page of another site may not do this; use the gateway's own, or a key."
        )
    session = await sessions.principal(request)
    if session is not None:
        return session
    principal = context.principal(request.headers, peer(request))
    if principal is LOCAL and not _own_name(request):
        # A stranger's host name that resolves to loopback (DNS rebinding) makes a page look local.
        return Principal("", LOCAL.scopes - {"admin"})
    return principal


def same_site(request: Request) -> bool:
    """Whether the request comes from a page of this origin, or from no page at all."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def _own_name(request: Request) -> bool:
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def require(principal: Principal, scope: str) -> None:
    """Raises forbidden."""
    if not principal.may(scope):
        raise TurnoutError("forbidden", f"This needs the scope {scope!r}; use a key that has it.")
