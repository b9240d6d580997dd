"""The dashboard's files, and the way in: a form takes an API key, a cookie keeps it."""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response

from dashboards.site import PAGES, Asset, Site
from gateway.auth.principal import SCOPES
from gateway.control.api_request import Ask, answer, checked
from gateway.control.auth import identify, refuse_other_pages
from gateway.control.login_limit import client_of
from gateway.control.schemas.requests import Login
from gateway.control.session import Session
from gateway.errors import TurnoutError

log = logging.getLogger("turnout.control")

_MOST_FIELDS: Final = 8
HOME: Final = "/-/dashboard/"
LOGIN: Final = "/-/dashboard/login"
SITE: Final = Site()

# Nothing from elsewhere, nothing inline, no frames: what is shown is what this gateway serves.
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
}


async def to_home(ask: Ask) -> Response:
    # Relative, since a proxy may serve the gateway below a path of its own.
    return RedirectResponse("dashboard/", 308)


async def home(ask: Ask) -> Response:
    """The page itself; who is not logged in is sent to the form."""
    try:
        principal = await identify(ask.request, ask.context, ask.desk.sessions, ask.desk.feedback_tokens)
    except TurnoutError as error:
        if error.code != "unauthenticated":
            raise
        return RedirectResponse("../" * _path(ask).count("/") + "login", 303, HEADERS)
    if not principal.may("read"):
        raise TurnoutError("forbidden", "The dashboard needs the scope 'read'; use a key that has it.")
    return _file(ask, SITE.page("index.html", _path(ask)))


async def login_form(ask: Ask) -> Response:
    return _file(ask, SITE.page("login.html"))


async def asset(ask: Ask) -> Response:
    """A file, or one of the pages that the script draws."""
    name = _path(ask)
    found = SITE.find(name)
    if found is not None:
        return _file(ask, found)
    if not PAGES.fullmatch(name):
        raise TurnoutError("not_found", f"The dashboard has no page or file {name!r}.")
    return await home(ask)


def _path(ask: Ask) -> str:
    """Below the dashboard's own path, as it was sent: a route's name may hold an escaped slash."""
    raw = ask.request.scope.get("raw_path") or ask.request.url.path.encode()
    return str(raw.split(b"?")[0].decode("latin-1").partition(HOME)[2])


async def login(ask: Ask) -> Response:
    """From the form (then the browser is sent on), or from a program with JSON."""
    refuse_other_pages(ask.request)
    client = client_of(ask.request, ask.context.document().trusted_proxies)
    ask.desk.logins.check(client)
    try:
        return await _log_in(ask)
    except TurnoutError as error:
        if error.code not in ("unauthenticated", "forbidden"):
            raise
        ask.desk.logins.failed(client)
        log.warning("a login to the dashboard failed: %s (client %s)", error.code, client or "unknown")
        if not _by_form(ask):
            raise
        return RedirectResponse(f"login?refused={error.code}", 303, HEADERS)


async def _log_in(ask: Ask) -> Response:
    body = await ask.bytes()
    if not _by_form(ask):
        done: Response = Response(status_code=204)
        given = checked(Login, await ask.desk.json_reader.read(body))
    else:
        done = RedirectResponse("./", 303, HEADERS)
        given = _form(body)
    await ask.desk.sessions.start(given.key, ask.request, done, steer=given.steer)
    return done


def _by_form(ask: Ask) -> bool:
    return ask.request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


def _form(body: bytes) -> Login:
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise TurnoutError("bad_request", f"The form has more than {_MOST_FIELDS} fields.") from None
    return Login(key=fields.get("key", [""])[0].strip(), steer="steer" in fields)


async def logout(ask: Ask) -> Response:
    """Ends every session of the cookie's key, so that a copy of the cookie is worth nothing."""
    refuse_other_pages(ask.request)
    done = Response(status_code=204)
    await ask.desk.sessions.end(ask.request, done)
    return done


async def session(ask: Ask) -> Response:
    """Who is looking, and what they may do; the page draws its buttons by it."""
    principal = ask.principal
    logged_in: Session | None = getattr(ask.request.state, "session", None)
    return answer(
        {
            "id": principal.id,
            "auth": ask.context.document().auth is not None,
            "routes": None if principal.routes is None else sorted(principal.routes),
            "scopes": [scope for scope in SCOPES if principal.may(scope)],
            "csrf": logged_in.csrf if logged_in is not None else "",
            "steer_until": logged_in.steer_until or None if logged_in is not None else None,
        }
    )


def _file(ask: Ask, found: Asset) -> Response:
    kept = "public, max-age=31536000, immutable" if found.immutable else "no-cache"
    headers = {**HEADERS, "cache-control": kept, "etag": found.etag, "vary": "accept-encoding"}
    if ask.request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    body = found.body
    if found.gzipped and "gzip" in ask.request.headers.get("accept-encoding", ""):
        body = found.gzipped
        headers["content-encoding"] = "gzip"
    return Response(body, headers={**headers, "content-type": found.media_type})
