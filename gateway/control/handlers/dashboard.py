"""The dashboard's files and its login: a form takes an API key, a cookie keeps it."""

from __future__ import annotations

import logging
import math
from typing import Final
from urllib.parse import parse_qs, urlencode

from starlette.responses import RedirectResponse, Response

from dashboards.site import PAGES, Asset, Site
from gateway.auth.principal import SCOPES
from gateway.control.api_request import ApiRequest, checked, json_response
from gateway.control.auth import identify, refuse_other_pages
from gateway.control.endpoint import HTML, OPEN, STORE, Endpoints
from gateway.control.login_limit import client_of
from gateway.control.schemas.dashboard import LoginRequest, SessionResponse
from gateway.errors import TurnoutError
from gateway.state.base import StoreUnavailable

log = logging.getLogger("turnout.control")
endpoints: Final = Endpoints()

MAX_FORM_FIELDS: Final = 8
MAX_DEPTH: Final = 8
"""Slashes in the path of a page that does not exist: `Site` keeps a page for each depth."""
HOME: Final = "/-/dashboard/"
SITE: Final = Site()

# Nothing from other hosts, nothing inline but the one sheet, no frames: pages show only what this gateway serves.
HEADERS: Final = {
    "content-security-policy": (
        f"default-src 'none'; script-src 'self'; style-src {SITE.sheet_source}; img-src 'self' data:; "
        "connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
}


@endpoints("GET", "/-/", OPEN, "", status=308)
@endpoints("GET", "/-/dashboard", OPEN, "", status=308)
async def to_home(request: ApiRequest) -> Response:
    """Redirect to the dashboard."""
    # Relative, since a proxy may serve the gateway under a prefix.
    return RedirectResponse("dashboard/", 308)


@endpoints("GET", "/-/dashboard/", OPEN, HTML)
async def home(request: ApiRequest) -> Response:
    """Get the dashboard.

    Without a session the browser is redirected to the login form.
    """
    try:
        principal = await identify(request.http, request.services)
    except TurnoutError as error:
        if error.code != "unauthenticated":
            raise
        path, query = _path(request), request.http.url.query
        form = _form_address(f"{path}?{query}" if query else path)
        return RedirectResponse("../" * path.count("/") + form, 303, HEADERS)
    if not principal.may("read"):
        raise TurnoutError("forbidden", "The dashboard needs the scope 'read'; use a key that has it.")
    return _file(request, SITE.page("index.html", _path(request)))


@endpoints("GET", "/-/dashboard/login", OPEN, HTML)
async def login_form(request: ApiRequest) -> Response:
    """Get the dashboard's login form."""
    return _file(request, SITE.page("login.html"))


def _form_address(page: str, refused: str = "", wait: int = 0) -> str:
    """The login form's, which leads on to ``page``; ``wait``: seconds until another try."""
    fields = {name: value for name, value in (("refused", refused), ("wait", wait), ("next", page)) if value}
    return f"login?{urlencode(fields)}" if fields else "login"


def _next_page(request: ApiRequest) -> str:
    """The page that the login leads to, below the dashboard's address; "" for its first, and for anything else."""
    given = request.http.query_params.get("next", "")
    return given if PAGES.fullmatch(given.partition("?")[0]) else ""


def _path(request: ApiRequest) -> str:
    """The raw path below the dashboard's: a route's name may contain an escaped slash."""
    raw = request.http.scope.get("raw_path") or request.http.url.path.encode()
    return str(raw.split(b"?")[0].decode("latin-1").partition(HOME)[2])


@endpoints(
    "POST",
    "/-/dashboard/login",
    OPEN,
    "",
    body=LoginRequest,
    status=204,
    errors=("bad_json", "invalid", "unauthenticated", "forbidden", "body_too_large", *STORE),
)
async def login(request: ApiRequest) -> Response:
    """Log in to the dashboard.

    A form gets a redirect as its response. The cookie is valid for reading for twelve hours; with `steer` also for
    changes, until 15 minutes after the last one.
    """
    refuse_other_pages(request.http)
    client = client_of(request.http, request.gateway.document().trusted_proxies)
    try:
        return await _log_in(request, client)
    except TurnoutError as error:
        if error.code in ("unauthenticated", "forbidden"):
            _tell_failure(request, client, error.code)
        elif error.code != "rate_limited":
            raise
        if not _by_form(request):
            raise
        return _form_again(request, error.code, math.ceil(error.retry_after or 0))
    except StoreUnavailable:
        if not _by_form(request):
            raise
        return _form_again(request, "store_unavailable")


def _form_again(request: ApiRequest, refused: str, wait: int = 0) -> Response:
    return RedirectResponse(_form_address(_next_page(request), refused, wait), 303, HEADERS)


def _tell_failure(request: ApiRequest, client: str, code: str) -> None:
    request.services.logins.failed(client)
    request_id = request.http.state.request_id
    log.warning(
        "a login to the dashboard failed: %s (client %s, request %s)",
        code,
        client or "unknown",
        request_id,
        extra={"request_id": request_id},
    )


async def _log_in(request: ApiRequest, client: str) -> Response:
    body = await request.bytes()
    if not _by_form(request):
        response: Response = Response(status_code=204)
        given = checked(LoginRequest, await request.services.json_reader.read(body))
    else:
        response = RedirectResponse(f"./{_next_page(request)}", 303, HEADERS)
        given = _form(body)
    # After the body: between this and the look at the key no other request may come.
    request.services.logins.check(client)
    await request.services.sessions.start(given.key, request.http, response, steer=given.steer)
    return response


def _by_form(request: ApiRequest) -> bool:
    return request.http.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


def _form(body: bytes) -> LoginRequest:
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise TurnoutError(
            "bad_request", f"The form has more than {MAX_FORM_FIELDS} fields; send 'key' and 'steer'."
        ) from None
    return LoginRequest(key=fields.get("key", [""])[0].strip(), steer="steer" in fields)


@endpoints("POST", "/-/dashboard/logout", OPEN, "", status=204)
async def logout(request: ApiRequest) -> Response:
    """Log out of the dashboard.

    Every session of the cookie's key ends, so that copies of the cookie stop working.
    """
    refuse_other_pages(request.http)
    response = Response(status_code=204)
    await request.services.sessions.end(request.http, response)
    return response


@endpoints("GET", "/-/dashboard/session", "read", SessionResponse)
async def session(request: ApiRequest) -> Response:
    """Get the principal of the session and its rights."""
    principal, logged_in = request.principal, request.session
    return json_response(
        {
            "id": principal.id,
            "auth": request.gateway.document().auth is not None,
            "routes": None if principal.routes is None else sorted(principal.routes),
            "scopes": [scope for scope in SCOPES if principal.may(scope)],
            "csrf": logged_in.csrf if logged_in is not None else "",
            "steer_until": logged_in.steer_until or None if logged_in is not None else None,
        }
    )


# Last, since it matches every path below the dashboard.
@endpoints("GET", "/-/dashboard/{name:path}", OPEN, HTML, documented=False)
async def asset(request: ApiRequest) -> Response:
    """Get a file of the dashboard, or one of the pages that its script renders."""
    name = _path(request)
    found = SITE.find(name)
    if found is not None:
        return _file(request, found)
    if PAGES.fullmatch(name):
        return await home(request)
    if "text/html" not in request.http.headers.get("accept", "") or name.count("/") > MAX_DEPTH:
        raise TurnoutError("not_found", f"The dashboard has no page or file {name!r}.")
    page = await home(request)  # which says that there is none
    return page if page.status_code != 200 else Response(page.body, 404, page.headers)


def _file(request: ApiRequest, found: Asset) -> Response:
    kept = "public, max-age=31536000, immutable" if found.immutable else "no-cache"
    headers = {**HEADERS, "cache-control": kept, "etag": found.etag, "vary": "accept-encoding"}
    if request.http.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    body = found.body
    if found.gzipped and "gzip" in request.http.headers.get("accept-encoding", ""):
        body = found.gzipped
        headers["content-encoding"] = "gzip"
    return Response(body, headers={**headers, "content-type": found.media_type})
