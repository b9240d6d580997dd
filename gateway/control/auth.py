"""Who may make a request to the control API.

A credential is a header (API key or token), the dashboard's cookie, or, without ``auth`` in the configuration, a
connection from the loopback interface. A browser sends the last two for any page that makes a request, so for these
the page must be the gateway's own.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from time import perf_counter
from typing import Final

from starlette.requests import Request

from gateway.auth.principal import Authenticator, Principal, basic_password
from gateway.control.feedback_token import PREFIX
from gateway.control.gateway_api import GatewayApi
from gateway.control.services import ControlServices
from gateway.control.session import CSRF, Session, Sessions
from gateway.errors import TurnoutError
from gateway.http import browsers
from gateway.state.base import StoreUnavailable

FEEDBACK: Final = "/-/feedback"
HOOKS: Final = "/-/hooks/"
"""The calls that take a key as the password of HTTP Basic authentication too."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def near(request: Request) -> bool:
    """Whether the client is on this machine and the request did not come through a proxy.

    HTTP/1.0 counts as a proxy: some proxies speak only that, and set no header that identifies them.
    """
    client = request.client
    proxied = getattr(request.state, "proxied", False) or request.scope["http_version"] == "1.0"
    return client is not None and not proxied and browsers.is_loopback(client.host)


def is_local(request: Request, authenticator: Authenticator) -> bool:
    """Whether the client is `near`, and not a page whose own host name resolves to this gateway."""
    return near(request) and authenticator.browsers.owns(_host(request))


def has_header(headers: Mapping[str, str]) -> bool:
    return "authorization" in headers or "x-api-key" in headers


def reports_from_allowed_page(request: Request, gateway: GatewayApi) -> bool:
    """Whether a page of `feedback.allow_origins` reports a reward."""
    origin = request.headers.get("origin", "").lower()
    return request.url.path == FEEDBACK and origin in gateway.document().feedback.allow_origins


def feedback_token(request: Request) -> str:
    """The feedback token that the request carries; empty if it carries none."""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    return rest.strip() if scheme.lower() == "bearer" and rest.strip().startswith(PREFIX) else ""


async def identify(request: Request, services: ControlServices) -> Principal:
    """Return the principal of ``request``, whose rate it counts for.

    Raises unauthenticated, forbidden (another site's page), rate_limited, StoreUnavailable.
    """
    principal = await _principal(request, services)
    if principal.bucket is not None:
        wait = principal.bucket.take(perf_counter())
        if wait > 0:
            raise TurnoutError("rate_limited", retry_after=wait)
    return principal


async def still_admitted(request: Request, services: ControlServices, before: Principal) -> bool:
    """Whether the credential of a request that is being served still has the rights that ``before`` had."""
    try:
        now = await _principal(request, services)
    except TurnoutError:
        return False
    except StoreUnavailable:
        return True
    return (now.id, now.scopes, now.routes) == (before.id, before.scopes, before.routes)


async def _principal(request: Request, services: ControlServices) -> Principal:
    gateway = services.gateway
    authenticator = gateway.authenticator()
    if authenticator.open:
        # Without `auth` a header is not a credential: a page of another site may set it too.
        method, host, fields = request.method.encode(), _host(request), _page(request)
        if reports_from_allowed_page(request, gateway):
            fields = {}
        return authenticator.visitor(method, host, fields, near=near(request))
    if request.url.path == FEEDBACK and (token := feedback_token(request)):
        return await services.feedback_tokens.principal(token)
    if has_header(request.headers):
        return authenticator.principal(credential(request), gateway.now())
    return await _by_cookie(request, services.sessions)


def identify_node(request: Request, gateway: GatewayApi) -> Principal:
    """Return the principal of a node, whose id is the name of its engine. Raises unauthenticated."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    engine = gateway.fleet.engine_of(token.strip()) if scheme.lower() == "bearer" else None
    if engine is None:
        raise TurnoutError("unauthenticated", "This needs the token of an engine ('engines.NAME.token').")
    return Principal(engine, frozenset())


def credential(request: Request) -> bytes:
    given = request.headers.get("x-api-key") or request.headers.get("authorization") or ""
    scheme, _, rest = given.encode("latin-1").partition(b" ")
    if scheme.lower() == b"basic" and request.url.path.startswith(HOOKS):
        # Flagger sends no header of ours, but the user part of the webhook's URL: http://flagger:KEY@host/…
        return basic_password(rest)
    return given.encode("latin-1")


async def _by_cookie(request: Request, sessions: Sessions) -> Principal:
    session = await sessions.session(request)
    if session is None:
        raise TurnoutError("unauthenticated")
    if request.method not in SAFE:
        _refuse_forged(request, session)
    request.state.session = session
    return session.principal


def _refuse_forged(request: Request, session: Session) -> None:
    """Raises forbidden for a change that a page of another origin may have caused."""
    refuse_other_pages(request)
    page, given = _page(request), request.headers.get(CSRF, "")
    identified = browsers.SITE in page or browsers.ORIGIN in page
    if not identified or not hmac.compare_digest(given.encode("latin-1"), session.csrf.encode()):
        raise TurnoutError(
            "forbidden", f"With a cookie a change needs {CSRF!r}; its value is in GET /-/dashboard/session."
        )


def refuse_other_pages(request: Request) -> None:
    """Raises forbidden if the request comes from a page of another origin."""
    if not browsers.from_own_page(request.method.encode(), _host(request), _page(request)):
        raise TurnoutError(
            "forbidden", "A page of another site may not do this; use the gateway's own, or a key."
        )


def require_media_type(request: Request, wanted: str) -> None:
    """Raises unsupported_media_type for a body of another type: forms of other sites can send only those."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise TurnoutError(
            "unsupported_media_type", f"With a cookie a change needs 'content-type: {wanted}'; send that."
        )


def _host(request: Request) -> bytes:
    return request.headers.get("host", "").encode("latin-1")


def _page(request: Request) -> dict[bytes, bytes]:
    return {name: value for name, value in request.headers.raw if name in browsers.FIELDS}


def require(principal: Principal, scope: str, *, logged_in: bool = False) -> None:
    """Raises forbidden if the principal lacks ``scope``. ``logged_in``: it has a cookie, not a key."""
    if logged_in and not principal.may(scope):
        raise TurnoutError(
            "forbidden",
            f"This login may not do that ({scope!r}), or its time for changes is over; log in again with "
            "'Look and steer' and a key that may.",
        )
    if not principal.may(scope):
        raise TurnoutError("forbidden", f"This needs the scope {scope!r}; use a key that has it.")
    if scope == "config" and principal.routes is not None:
        # The document holds every route and the keys: a client that may write it may do everything.
        raise TurnoutError("forbidden", "A key with 'routes' may not use the configuration; use one without.")
