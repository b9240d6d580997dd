"""The dashboard's login: an API key, sealed into a cookie that only this gateway can open.

The cookie holds the key itself, encrypted (ChaCha20-Poly1305, with a secret of the store's so that every
worker and replica can open it). It is therefore proved on each request: a key that is taken out of
the configuration is out within a second. A counter of the key's in the store, sealed in too, is raised at each
log-out: it ends every session of that key, and copies of its cookies. A session only reads, unless the login asked
for more; then it may steer and configure, as far as its key may, until 15 minutes after the last such step.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.principal import Principal
from gateway.control.context import Context
from gateway.errors import TurnoutError
from gateway.state.base import StoreUnavailable

LIFE: Final = 12 * 3600
"""Seconds a login lasts."""
STEERING: Final = 15 * 60
"""Seconds after a login, and after each change, for which a session may change something."""
CSRF: Final = "x-turnout-csrf"
_NONCE: Final = 12
_PURPOSE: Final = b"turnout dashboard session 2"
_KIND: Final = "dashboard-log-outs"
_COUNTER_AGE: Final = 1.0
"""Seconds for which a counter that was read is used."""
_MOST_COUNTERS: Final = 1000
_LOOKING: Final = frozenset({"read"})
_CHANGING: Final = ("read", "steer", "config")


@dataclass(frozen=True, slots=True)
class Session:
    """What a cookie holds, and whose it is."""

    id: str
    key: str
    log_outs: int
    """The key's counter at the login."""
    until: int
    steer_until: int
    """Seconds since the epoch; 0 for a session that only looks."""
    principal: Principal
    csrf: str
    """What a change must carry in `CSRF`: a page of another origin can't learn it."""


class Sessions:
    """Makes and opens the cookies of one gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._secret = b""
        self._counters: dict[str, tuple[float, int]] = {}
        """By key id: when it was read, and the counter."""

    async def start(self, key: str, request: Request, answer: Response, *, steer: bool = False) -> None:
        """Sets the cookie for ``key``. Raises unauthenticated, or forbidden when it may not read."""
        principal = self.key_principal(key)
        if not principal.may("read"):
            raise TurnoutError("forbidden", "This key may not read; use one with the scope 'read'.")
        self._secret = b""  # read again: a store that lost its data may have another by now
        now = int(self._context.now())
        session = Session(
            id=os.urandom(12).hex(),
            key=key,
            log_outs=await self._read(principal.id),
            until=now + LIFE,
            steer_until=now + STEERING if steer and self._steering() else 0,
            principal=principal,
            csrf="",
        )
        await self._issue(session, request, answer)

    async def prolong(self, session: Session, request: Request, answer: Response) -> None:
        """A change was made: the session may make more."""
        until = int(self._context.now()) + STEERING
        await self._issue(replace(session, steer_until=until), request, answer)

    async def end(self, request: Request, answer: Response) -> None:
        """Ends all sessions of the cookie's key, and takes the cookie back. Raises StoreUnavailable."""
        session = await self.session(request)
        if session is not None:
            name = session.principal.id
            while True:
                found = await self._context.store.load(_KIND, name)
                if await self._context.store.save(_KIND, name, "{}", expected=found[0] if found else 0):
                    break
            self._counters.pop(name, None)
        self._set(answer, request, await self._name(request), "", 0)

    async def session(self, request: Request) -> Session | None:
        """Who is logged in; None without a cookie that is still good."""
        text = request.cookies.get(await self._name(request))
        return await self._unseal(text) if text else None

    def key_principal(self, key: str) -> Principal:
        """Raises unauthenticated."""
        # As a client that sends it in a header would: whatever is not ASCII in UTF-8.
        return self._context.authenticator().principal(key.encode(), self._context.now())

    def _steering(self) -> bool:
        auth = self._context.document().auth
        return auth is not None and auth.dashboard.steer

    async def _issue(self, session: Session, request: Request, answer: Response) -> None:
        fields = [session.id, session.key, session.log_outs, session.until, session.steer_until]
        nonce = os.urandom(_NONCE)
        sealed = (await self._cipher()).encrypt(nonce, json.dumps(fields).encode(), _PURPOSE)
        value = urlsafe_b64encode(nonce + sealed).decode()
        life = session.until - int(self._context.now())
        self._set(answer, request, await self._name(request), value, life)

    async def _unseal(self, text: str) -> Session | None:
        cipher = await self._cipher()
        try:
            raw = urlsafe_b64decode(text.encode("ascii"))
            ident, key, log_outs, until, steer_until = json.loads(
                cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _PURPOSE)
            )
            known = self.key_principal(key)
        except (InvalidTag, Base64Error, ValueError, TurnoutError):
            return None
        now = self._context.now()
        if until <= now or not known.may("read") or log_outs != await self._counter(known.id):
            return None
        steers = steer_until > now and self._steering()
        scopes = frozenset(s for s in _CHANGING if known.may(s)) if steers else _LOOKING
        principal = Principal(known.id, scopes, known.routes, known.bucket)
        csrf = hmac.digest(self._secret, f"csrf {ident}".encode(), "sha256").hex()
        return Session(ident, key, log_outs, until, steer_until if steers else 0, principal, csrf)

    async def _counter(self, name: str) -> int:
        """How often sessions of the key were ended; at most a second old, or the last known while the store is away."""
        now = self._context.now()
        known = self._counters.get(name)
        if known is not None and 0 <= now - known[0] < _COUNTER_AGE:
            return known[1]
        try:
            return await self._read(name)
        except StoreUnavailable:
            if known is None:
                raise
            return known[1]

    async def _read(self, name: str) -> int:
        found = await self._context.store.load(_KIND, name)
        if len(self._counters) >= _MOST_COUNTERS:
            self._counters.clear()
        counter = found[0] if found is not None else 0
        self._counters[name] = self._context.now(), counter
        return counter

    async def _cipher(self) -> ChaCha20Poly1305:
        if not self._secret:
            self._secret = (await self._context.store.secrets("dashboard-session"))[0]
        return ChaCha20Poly1305(self._secret)

    async def _name(self, request: Request) -> str:
        """Cookies ignore ports, so each gateway has a name of its own; `__Host-` binds it to TLS and this host."""
        await self._cipher()
        name = f"turnout-session-{hashlib.sha256(self._secret).hexdigest()[:8]}"
        return f"__Host-{name}" if _secure(request) else name

    @staticmethod
    def _set(answer: Response, request: Request, name: str, value: str, life: int) -> None:
        secure = _secure(request)
        answer.set_cookie(
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
