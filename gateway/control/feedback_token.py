"""Short-lived tokens with which a web page reports rewards, so that no API key lies in a page.

A token seals the credential that asked for it, the routes and the time of its end (ChaCha20-Poly1305, with a secret
of the store's, so that every worker and replica can open it). It is proved on each use: with the key, its tokens go.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from gateway.auth.principal import Principal
from gateway.control.context import Context
from gateway.errors import TurnoutError

PREFIX: Final = "fb_"
SECRET: Final = "feedback-token"
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"turnout feedback token 1"


class FeedbackTokens:
    """Makes and opens the tokens of one gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._secrets: tuple[bytes, ...] = ()

    async def make(self, credential: str, routes: Sequence[str] | None, until: int) -> str:
        """A token for ``credential``, good for ``routes`` (None: those of its key) until ``until``, in seconds
        since the epoch. Raises StoreUnavailable."""
        self._secrets = await self._context.store.secrets(SECRET)
        nonce = os.urandom(_NONCE_BYTES)
        text = json.dumps([credential, None if routes is None else list(routes), until]).encode()
        sealed = ChaCha20Poly1305(self._secrets[0]).encrypt(nonce, text, _PURPOSE)
        return PREFIX + urlsafe_b64encode(nonce + sealed).decode()

    async def principal(self, token: str) -> Principal:
        """Who reports with ``token``: the key's principal, for feedback alone. Raises unauthenticated."""
        credential, routes, until = await self._opened(token.removeprefix(PREFIX))
        now = self._context.now()
        if until <= now:
            raise TurnoutError("unauthenticated", "The feedback token has ended; ask for another.")
        known = self._context.authenticator().principal(credential.encode(), now)
        if not known.may("feedback"):
            raise TurnoutError("unauthenticated")
        allowed = known.routes if routes is None else frozenset(filter(known.serves, routes))
        return Principal(known.id, frozenset({"feedback"}), allowed, known.bucket)

    async def _opened(self, text: str) -> tuple[str, list[str] | None, int]:
        if not self._secrets:
            self._secrets = await self._context.store.secrets(SECRET)
        for secret in self._secrets:
            try:
                raw = urlsafe_b64decode(text.encode("ascii"))
                opened = ChaCha20Poly1305(secret).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PURPOSE)
            except (InvalidTag, Base64Error, ValueError):
                continue
            credential, routes, until = json.loads(opened)
            return credential, routes, until
        raise TurnoutError("unauthenticated", "This is no feedback token of this gateway; ask for another.")
