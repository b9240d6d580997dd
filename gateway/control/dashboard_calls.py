"""The dashboard's files, and the way in: a form takes an API key, a cookie keeps it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response

from dashboards.site import Asset, Site
from gateway.control.access import identify, same_site
from gateway.control.ask import Ask, answer, checked, parse
from gateway.control.questions import Login
from gateway.errors import TurnoutError

HOME: Final = "/-/dashboard/"
LOGIN: Final = "/-/dashboard/login"
SITE: Final = Site()

# Nothing from elsewhere, nothing inline, no frames: what is shown is what this gateway serves.
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
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
        principal = await identify(ask.request, ask.context, ask.desk.sessions)
    except TurnoutError as error:
        if error.code != "unauthenticated":
            raise
        return RedirectResponse("login", 303, HEADERS)
    if not principal.may("read"):
        raise TurnoutError("forbidden", "The dashboard needs the scope 'read'; use a key that has it.")
    return _file(ask, "index.html")


async def login_form(ask: Ask) -> Response:
    return _file(ask, "login.html")


async def asset(ask: Ask) -> Response:
    return _file(ask, str(ask.request.path_params["name"]))


async def login(ask: Ask) -> Response:
    """From the form (then the browser is sent on), or from a program with JSON."""
    if not same_site(ask.request):
        raise TurnoutError(
            "forbidden", "A page of another site may not log in here; use the gateway's own form."
        )
    body = await ask.bytes()
    by_form = ask.request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    if not by_form:
        done = Response(status_code=204)
        await ask.desk.sessions.start(checked(Login, parse(body)).key, ask.request, done)
        return done
    sent_on = RedirectResponse("./", 303, HEADERS)
    try:
        key = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()
        await ask.desk.sessions.start(key, ask.request, sent_on)
    except TurnoutError as error:
        if error.code not in ("unauthenticated", "forbidden"):
            raise
        return RedirectResponse(f"login?refused={error.code}", 303, HEADERS)
    return sent_on


async def logout(ask: Ask) -> Response:
    if not same_site(ask.request):
        raise TurnoutError("forbidden", "A page of another site may not log out here.")
    done = Response(status_code=204)
    ask.desk.sessions.end(ask.request, done)
    return done


async def session(ask: Ask) -> Response:
    """Who is looking; the page shows it, and whether there is anything to log out of."""
    principal = ask.principal
    routes = None if principal.routes is None else sorted(principal.routes)
    auth = ask.context.document().auth is not None
    return answer({"id": principal.id, "auth": auth, "routes": routes})


def _file(ask: Ask, name: str) -> Response:
    found: Asset | None = SITE.find(name)
    if found is None:
        raise TurnoutError("not_found", f"The dashboard has no file {name!r}.")
    headers = {**HEADERS, "cache-control": "no-cache", "etag": found.etag}
    if ask.request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers={**headers, "content-type": found.media_type})
