"""Short-lived tokens with which a web page reports rewards, so that no API key lies in a page.

A token seals the credential that requested it, the routes and its expiry time (ChaCha20-Poly1305 with a secret of the
store, so that every worker and replica can open it). The credential is verified on each use: tokens end with their key.
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
from gateway.control.gateway_api import GatewayApi
from gateway.errors import TurnoutError

PREFIX: Final = "fb_"
SECRET: Final = "feedback-token"
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"turnout feedback token 1"


class FeedbackTokens:
    """Makes and opens the tokens of one gateway."""

    def __init__(self, gateway: GatewayApi) -> None:
        self._gateway = gateway
        self._secrets: tuple[bytes, ...] = ()

    async def make(self, credential: str, routes: Sequence[str] | None, until: int) -> str:
        """Return a token for ``credential``, valid for ``routes`` (None: those of its key) until ``until``, in seconds
        since the epoch. Raises StoreUnavailable."""
        self._secrets = await self._gateway.store.secrets(SECRET)
        nonce = os.urandom(_NONCE_BYTES)
        text = json.dumps([credential, None if routes is None else list(routes), until]).encode()
        sealed = ChaCha20Poly1305(self._secrets[0]).encrypt(nonce, text, _PURPOSE)
        return PREFIX + urlsafe_b64encode(nonce + sealed).decode()

    async def principal(self, token: str) -> Principal:
        """Return the principal of ``token``: that of its key, for feedback only. Raises unauthenticated."""
        credential, routes, until = await self._opened(token.removeprefix(PREFIX))
        now = self._gateway.now()
        if until <= now:
            raise TurnoutError("unauthenticated", "The feedback token has expired; request another.")
        known = self._gateway.authenticator().principal(credential.encode(), now)
        if not known.may("feedback"):
            raise TurnoutError("unauthenticated")
        allowed = known.routes if routes is None else frozenset(filter(known.serves, routes))
        return Principal(known.id, frozenset({"feedback"}), allowed, known.bucket)

    async def _opened(self, text: str) -> tuple[str, list[str] | None, int]:
        if not self._secrets:
            self._secrets = await self._gateway.store.secrets(SECRET)
        for secret in self._secrets:
            try:
                raw = urlsafe_b64decode(text.encode("ascii"))
                opened = ChaCha20Poly1305(secret).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PURPOSE)
            except (InvalidTag, Base64Error, ValueError):
                continue
            credential, routes, until = json.loads(opened)
            return credential, routes, until
        raise TurnoutError(
            "unauthenticated", "This is not a feedback token of this gateway; request another."
        )
