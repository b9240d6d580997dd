"""Text that only gateways of one store can open: the dashboard's cookie and feedback tokens."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from gateway.control.gateway_api import GatewayApi
from gateway.state.base import StoreUnavailable

_NONCE_BYTES: Final = 12
SECRETS_AGE_S: Final = 1.0
"""Secrets are read from the store again after this long: a store that lost its data has others."""


class StoreSeal:
    """Seals JSON with ChaCha20-Poly1305 and a secret of the store, which every worker and replica has."""

    def __init__(self, gateway: GatewayApi, name: str, purpose: bytes) -> None:
        """``name``: of the secret in the store. ``purpose``: text of another purpose can't be opened."""
        self._gateway = gateway
        self._name = name
        self._purpose = purpose
        self._read = float("-inf")
        self._secrets: tuple[bytes, ...] = ()

    async def secrets(self) -> tuple[bytes, ...]:
        """Return the secrets, the one in use first; the last known while the store is unavailable.

        Raises StoreUnavailable if none is known.
        """
        now = self._gateway.now()
        if not self._secrets or not 0 <= now - self._read < SECRETS_AGE_S:
            self._read = now  # also if it fails: others must not wait for an unavailable store as well
            try:
                self._secrets = await self._gateway.store.secrets(self._name)
            except StoreUnavailable:
                if not self._secrets:
                    raise
        return self._secrets

    async def seal(self, fields: list[Any]) -> str:
        """Return ``fields`` as text for URLs and headers. Raises StoreUnavailable."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = ChaCha20Poly1305((await self.secrets())[0])
        return urlsafe_b64encode(
            nonce + cipher.encrypt(nonce, json.dumps(fields).encode(), self._purpose)
        ).decode()

    async def open(self, text: str) -> list[Any] | None:
        """Return the fields in ``text``; None if it was not sealed here. Raises StoreUnavailable."""
        for secret in await self.secrets():
            try:
                raw = urlsafe_b64decode(text.encode("ascii"))
                if urlsafe_b64encode(raw).decode() != text:
                    continue  # another spelling: the decoder skips what is not base64, and takes "+" for "-"
                nonce, sealed = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
                fields: list[Any] = json.loads(ChaCha20Poly1305(secret).decrypt(nonce, sealed, self._purpose))
            except (InvalidTag, Base64Error, ValueError):
                continue
            return fields
        return None
