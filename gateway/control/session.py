"""The dashboard's login: an API key, sealed into a cookie that only this gateway can open.

The cookie holds the key itself, encrypted (ChaCha20-Poly1305, with a secret of the store's so that every
worker and replica can open it). It is therefore proved anew on each request: a key that is taken out of
the configuration is out at once, and there is no table of sessions to keep. A session may only read.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from starlette.requests import Request
from starlette.responses import Response

from gateway.control.context import Context
from gateway.dataplane.auth import Principal
from gateway.errors import TurnoutError

COOKIE: Final = "turnout-session"
LIFE: Final = 12 * 3600
"""Seconds a login lasts."""
_PATH: Final = "/-/"
_NONCE: Final = 12
_PURPOSE: Final = b"turnout dashboard session 1"
_ALLOWED: Final = frozenset({"read"})


class Sessions:
    """Makes and opens the cookies of one gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cipher: ChaCha20Poly1305 | None = None

    async def start(self, key: str, request: Request, answer: Response) -> None:
        """Sets the cookie for ``key``. Raises unauthenticated, or forbidden when it may not read."""
        if not self.key_principal(key).may("read"):
            raise TurnoutError("forbidden", "This key may not read; use one with the scope 'read'.")
        plain = json.dumps([int(self._context.now()) + LIFE, key]).encode()
        nonce = os.urandom(_NONCE)
        sealed = (await self._open_cipher()).encrypt(nonce, plain, _PURPOSE)
        self._set(answer, request, urlsafe_b64encode(nonce + sealed).decode(), LIFE)

    def end(self, request: Request, answer: Response) -> None:
        self._set(answer, request, "", 0)

    async def principal(self, request: Request) -> Principal | None:
        """Who is logged in, cut down to reading; None without a cookie that is still good."""
        text = request.cookies.get(COOKIE)
        key = await self._unseal(text) if text else None
        if key is None:
            return None
        try:
            known = self.key_principal(key)
        except TurnoutError:
            return None
        scopes = _ALLOWED if known.may("read") else frozenset[str]()
        return Principal(known.id, scopes, known.routes)

    def key_principal(self, key: str) -> Principal:
        """Raises unauthenticated."""
        return self._context.principal({"x-api-key": key}, None)

    async def _unseal(self, text: str) -> str | None:
        cipher = await self._open_cipher()
        try:
            raw = urlsafe_b64decode(text.encode("ascii"))
            until, key = json.loads(cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _PURPOSE))
        except (InvalidTag, Base64Error, ValueError):
            return None
        return str(key) if until > self._context.now() else None

    async def _open_cipher(self) -> ChaCha20Poly1305:
        if self._cipher is None:
            self._cipher = ChaCha20Poly1305(await self._context.store.secret("dashboard-session"))
        return self._cipher

    @staticmethod
    def _set(answer: Response, request: Request, value: str, life: int) -> None:
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(
            COOKIE, value, max_age=life, path=_PATH, secure=secure, httponly=True, samesite="strict"
        )
