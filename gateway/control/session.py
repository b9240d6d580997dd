"""The dashboard's session: an API key, sealed into a cookie that only this gateway can open.

The cookie holds the key itself, encrypted with ChaCha20-Poly1305 and a secret of the store, so that every worker and
replica can open it. The key is verified on each request: one that is removed from the configuration stops working
within a second. The cookie also seals a counter of the key, which each log-out raises in the store: it ends every
session of that key, and copies of its cookies. A session only reads unless the login asked for more; then it may steer
and configure, as far as its key may, until 15 minutes after the last change.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.principal import Principal
from gateway.control.gateway_api import GatewayApi
from gateway.control.sealing import StoreSeal
from gateway.errors import TurnoutError
from gateway.state import shapes
from gateway.state.base import StoreUnavailable, unconfirmed

SESSION_LIFE_S: Final = 12 * 3600
"""A login lasts this long."""
STEER_LIFE_S: Final = 15 * 60
"""A session may make changes for this long after the login and after each change."""
CSRF: Final = "x-turnout-csrf"
_KIND: Final = shapes.kind("dashboard-log-outs", {str: object})
COUNTER_AGE_S: Final = 1.0
"""A counter is read from the store again after this long."""
MAX_COUNTERS: Final = 1000
_LOOKING: Final = frozenset({"read"})
_CHANGING: Final = ("read", "steer", "config")


@dataclass(frozen=True, slots=True)
class Session:
    """The content of a cookie, and its principal."""

    id: str
    key: str
    log_outs: int
    """The key's counter at the login."""
    until: int
    steer_until: int
    """Seconds since the epoch; 0 for a session that only reads."""
    principal: Principal
    csrf: str
    """The value that a change must send in `CSRF`: a page of another origin can't read it."""


class Sessions:
    """Makes and opens the cookies of one gateway."""

    def __init__(self, gateway: GatewayApi) -> None:
        self._gateway = gateway
        self._seal = StoreSeal(gateway, "dashboard-session", b"turnout dashboard session 2")
        self._counters: dict[str, tuple[float, int]] = {}
        """Key id → when the counter was read, and its value."""

    async def start(self, key: str, request: Request, response: Response, *, steer: bool = False) -> None:
        """Set the cookie for ``key``. Raises unauthenticated, forbidden (the key may not read), StoreUnavailable."""
        principal = self.key_principal(key)
        if not principal.may("read"):
            raise TurnoutError("forbidden", "This key may not read; use one with the scope 'read'.")
        now = int(self._gateway.now())
        session = Session(
            id=os.urandom(12).hex(),
            key=key,
            log_outs=await self._read(principal.id),
            until=now + SESSION_LIFE_S,
            steer_until=now + STEER_LIFE_S if steer and self._steering() else 0,
            principal=principal,
            csrf="",
        )
        await self._issue(session, request, response)

    async def prolong(self, session: Session, request: Request, response: Response) -> None:
        """Extend the time for changes, after one was made."""
        until = int(self._gateway.now()) + STEER_LIFE_S
        await self._issue(replace(session, steer_until=until), request, response)

    async def end(self, request: Request, response: Response) -> None:
        """End all sessions of the cookie's key and delete the cookie. Raises StoreUnavailable."""
        session = await self.session(request)
        if session is not None:
            name = session.principal.id
            while True:
                found = await self._gateway.store.load(_KIND, name)
                with unconfirmed():
                    if await self._gateway.store.save(_KIND, name, "{}", expected=found[0] if found else 0):
                        break
            self._counters.pop(name, None)
        self._set(response, request, await self._name(request), "", 0)

    async def session(self, request: Request) -> Session | None:
        """Return the session of the cookie; None without a valid one."""
        text = request.cookies.get(await self._name(request))
        return await self._unseal(text) if text else None

    def key_principal(self, key: str) -> Principal:
        """Return the principal of an API key. Raises unauthenticated."""
        # As in a header: characters beyond ASCII in UTF-8.
        return self._gateway.authenticator().principal(key.encode(), self._gateway.now())

    def _steering(self) -> bool:
        auth = self._gateway.document().auth
        return auth is not None and auth.dashboard.steer

    async def _issue(self, session: Session, request: Request, response: Response) -> None:
        fields = [session.id, session.key, session.log_outs, session.until, session.steer_until]
        value = await self._seal.seal(fields)
        life = session.until - int(self._gateway.now())
        self._set(response, request, await self._name(request), value, life)

    async def _unseal(self, text: str) -> Session | None:
        fields = await self._seal.open(text)
        if fields is None:
            return None
        ident, key, log_outs, until, steer_until = fields
        try:
            known = self.key_principal(key)
        except TurnoutError:
            return None
        now = self._gateway.now()
        if until <= now or not known.may("read") or log_outs != await self._counter(known.id):
            return None
        steers = steer_until > now and self._steering()
        scopes = frozenset(s for s in _CHANGING if known.may(s)) if steers else _LOOKING
        principal = Principal(known.id, scopes, known.routes, known.bucket)
        csrf = hmac.digest(await self._secret(), f"csrf {ident}".encode(), "sha256").hex()
        return Session(ident, key, log_outs, until, steer_until if steers else 0, principal, csrf)

    async def _counter(self, name: str) -> int:
        """How often sessions of the key were ended; the last known value while the store is unavailable."""
        now = self._gateway.now()
        known = self._counters.get(name)
        if known is not None and 0 <= now - known[0] < COUNTER_AGE_S:
            return known[1]
        try:
            return await self._read(name)
        except StoreUnavailable:
            if known is None:
                raise
            return known[1]

    async def _read(self, name: str) -> int:
        found = await self._gateway.store.load(_KIND, name)
        if len(self._counters) >= MAX_COUNTERS:
            self._counters.clear()
        counter = found[0] if found is not None else 0
        self._counters[name] = self._gateway.now(), counter
        return counter

    async def _secret(self) -> bytes:
        return (await self._seal.secrets())[0]

    async def _name(self, request: Request) -> str:
        """The cookie's name: its own for each gateway, since cookies ignore ports; `__Host-` binds it to TLS."""
        name = f"turnout-session-{hashlib.sha256(await self._secret()).hexdigest()[:8]}"
        return f"__Host-{name}" if _secure(request) else name

    @staticmethod
    def _set(response: Response, request: Request, name: str, value: str, life: int) -> None:
        secure = _secure(request)
        response.set_cookie(
            name,
            value,
            max_age=life,
            path="/" if secure else "/-/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )


def _secure(request: Request) -> bool:
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
